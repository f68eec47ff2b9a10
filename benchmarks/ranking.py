"""Ranks what was measured of ResNet-56 and MobileNet V2, pqbench's recipes beside the tools'.

    python benchmarks/ranking.py

Reads results/quantizers.json and results/compensation.json, writes docs/ranking.md. Measures nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS, PAGE = Path(__file__).parent / "results", Path(__file__).parent.parent / "docs/ranking.md"
MODELS = {
    "ResNet-56": (
        "resnet56",
        32,
        ("resnet56_int8", "resnet56_epoch", "resnet56_depth", "resnet56_depth_epoch"),
        "CIFAR-10, 846 images, one is 0.12 points",
    ),
    "MobileNet V2": (
        "mobilenetv2",
        8,
        ("mobilenet_v2_int8", "mobilenet_v2_depth"),
        "ImageNet, 500 images, one is 0.2 points",
    ),
}
RUNTIMES = ("onnxruntime", "openvino")
TOOLS = ("int8-ort", "int8-nncf", "int8-modelopt", "int8-inc", "int8-torchao", "int8-quark", "int8-aimet")
BOUNDS = (1.0, 2.0, 5.0)  # percentage points
HEAD = """# Recipes ranked: accuracy lost at equal speed

Written by `benchmarks/ranking.py` from the results of `benchmarks/quantizers.py` and `benchmarks/compensation.py`.
Speed-ups are over FP32 on the same runtime, measured interleaved with it, with 95 % intervals; points lost are against
FP32 of the same run, on images that no recipe was fitted to. "Compensated": channels ranked by `reconstruction` were
removed before, half of the multiply-accumulates if no share is given; "of the blocks", "blocks": whole residual blocks
(`depth`). A recipe in bold is on the Pareto front of its table: no other is both faster and as accurate. Differences
within the intervals, or of a few images, are chance: the rows of pqbench's INT8, `int8-static` and `int8`, come from
different runs and show how much.
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A recipe on a runtime."""

    recipe: str
    lost: float  # percentage points
    speedup: float
    low: float
    high: float
    is_stable: bool

    @property
    def is_tools(self) -> bool:
        return self.recipe in TOOLS


def main() -> None:
    """Write the page."""
    parts = [HEAD]
    for title, (model, batch, experiments, images) in MODELS.items():
        parts.append(f"## {title}, batch size {batch} ({images})\n")
        for runtime in RUNTIMES:
            rows = found(model, batch, experiments, runtime)
            parts += [f"### {runtime}\n", best(rows), table(rows)]
    PAGE.write_text("\n".join(parts))


def found(model: str, batch: int, experiments: tuple[str, ...], runtime: str) -> list[Row]:
    """All recipes that were measured, the fastest first."""
    tools = json.loads((RESULTS / "quantizers.json").read_text())["rows"]
    own = json.loads((RESULTS / "compensation.json").read_text())
    runs = [[row for row in tools if (row["model"], row["batch_size"]) == (model, batch)]]
    runs += [own[name]["rows"] for name in experiments if name in own]
    rows = [row for run in runs for row in of_run([one for one in run if one["target"].startswith(runtime)])]
    return sorted(rows, key=lambda row: -row.speedup)


def of_run(cells: list[dict[str, Any]]) -> list[Row]:
    """The recipes of one run that were timed, against its FP32."""
    if not cells:
        return []
    whole = next(cell["accuracy_top1_percent"] for cell in cells if cell["recipe"] in ("unpruned", "fp32", "baseline"))
    return [
        Row(
            recipe=cell["recipe"],
            lost=whole - cell["accuracy_top1_percent"],
            speedup=cell["speedup"],
            low=cell["speedup_low"],
            high=cell["speedup_high"],
            is_stable=cell["is_stable"],
        )
        for cell in cells
        if cell["outcome"] == "ok" and cell["speedup"]
    ]


def best(rows: list[Row]) -> str:
    """The fastest recipe within each bound, of the tools and of pqbench."""
    lines = ["| points lost at most | the tools' fastest | pqbench's fastest |", "| --- | --- | --- |"]
    for bound in BOUNDS:
        within = [row for row in rows if row.lost <= bound + 1e-6]
        sides = [next((shown(row) for row in within if row.is_tools is side), "none") for side in (True, False)]
        lines.append(f"| {bound:g} | {' | '.join(sides)} |")
    return "\n".join(lines) + "\n"


def table(rows: list[Row]) -> str:
    """All recipes."""
    lines = ["| recipe | points lost | speed-up | |", "| --- | --- | --- | --- |"]
    for row in rows:
        is_front = not any(one.speedup > row.speedup and one.lost <= row.lost for one in rows)
        name = f"**{row.recipe}**" if is_front else row.recipe
        note = "" if row.is_stable else "unstable"
        lines.append(f"| {name} | {row.lost:+.2f} | {row.speedup:.2f} ({row.low:.2f} to {row.high:.2f}) | {note} |")
    return "\n".join(lines) + "\n"


def shown(row: Row) -> str:
    return f"{row.recipe}: {row.speedup:.2f} at {row.lost:+.2f}"


if __name__ == "__main__":
    main()
