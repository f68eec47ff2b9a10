"""INT8 by tool: accuracy and latency of our quantizer, and of the others as they come, in one run.

    make setup-tools
    python benchmarks/quantizers.py DATA

The same models, the same calibration images (512, or as many as there are), the same threads; each variant is timed
interleaved with its FP32 baseline. CIFAR's ResNets and MobileNet V2 have published weights and say what accuracy is
left (MobileNet V2: 500 of the sample's images to calibrate with, 500 others to score); a ViT-Tiny with random weights
says how near the outputs stay. Prints each cell, and how ours stands to the best of the others; writes
results/quantizers.json.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import compensation
import routes

RESULT = Path(__file__).parent / "results" / "quantizers.json"
INVENTORY = routes.ROOT.resolve() / "data/inventories/tools.yaml"
OURS = "int8-static"
TOOLS = ("int8-ort", "int8-nncf", "int8-modelopt", "int8-inc", "int8-torchao", "int8-quark", "int8-aimet")
ALLOWED, WANTED = 0.98, 1.05  # of the best tool's speed: in all groups (the interval's lower end), and in half of them


def main(data: Path) -> None:
    """Run the comparisons and keep them."""
    if not (routes.ROOT / ".venv-tools").exists():
        sys.exit("AMD Quark and Qualcomm AIMET have an environment of their own: make setup-tools")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        compensation.split(data / "imagenet_sample.zip", Path(folder))
        for values in (residual(data), mobilenet(data, Path(folder)), routes.transformer(data)):
            found, environment = routes.run(experiment(values), INVENTORY)
            rows += found
    report(rows, environment)


def residual(data: Path) -> dict[str, Any]:
    """CIFAR's ResNet-20 and -56."""
    values = routes.convolutional(data)
    models = ("resnet20", "resnet56")
    weights = {model: str(data.resolve() / f"cifar10_{model}.safetensors") for model in models}
    return values | {"models": [{"model": f"cifar/{model}", "weights": weights[model]} for model in models]}


def mobilenet(data: Path, folder: Path) -> dict[str, Any]:
    """MobileNet V2 on the images that `compensation.split` put into a folder."""
    return routes.experiment(
        models=[compensation.mobilenet(data.resolve())],
        datasets=[{"dataset": "arrays", "config": compensation.arrays(folder)}],
        batch_sizes=[1, 8],
    )


def experiment(values: dict[str, Any]) -> dict[str, Any]:
    """A manifest of `routes` with the tools as recipes, without PyTorch."""
    return values | {
        "name": "quantizers",
        "recipes": [{"name": "fp32"}, *({"name": m, "steps": [{"quantize": {"method": m}}]} for m in (OURS, *TOOLS))],
        "targets": [target for target in values["targets"] if target["backend"] != "pytorch"],
    }


def report(rows: list[dict[str, Any]], environment: dict[str, Any]) -> None:
    """Print the comparison and keep it."""
    for row in rows:
        head = f"{row['model']:20} {row['target']:11} batch {row['batch_size']:3} {row['recipe']:14}"
        percent, decibels = routes.number(row["accuracy_top1_percent"]), routes.number(row["metric_sqnr_db"])
        quality = f"{percent} % {decibels} dB {routes.speed(row)}"
        print(head, quality if row["outcome"] == "ok" else row["reason"])
    standing = [compare(rows, *group) for group in groups(rows)]
    for line in standing:
        print(line)
    fast = sum(one["ratio"] >= WANTED for one in standing)
    slow = sum(one["ratio_low"] < ALLOWED for one in standing)
    print(f"{len(standing)} groups: {fast} at {WANTED} of the best tool's speed or more, {slow} maybe under {ALLOWED}")
    found = {"date": time.strftime("%Y-%m-%d"), "standing": standing, "rows": rows, "environment": environment}
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


def groups(rows: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
    """What is compared with each other."""
    return list(dict.fromkeys((row["model"], row["target"], row["batch_size"]) for row in rows))


def compare(rows: list[dict[str, Any]], model: str, target: str, batch: int) -> dict[str, Any]:
    """Ours against the best other tool: in accuracy, or nearness of the outputs, and in speed-up over FP32."""
    group = [r for r in rows if (r["model"], r["target"], r["batch_size"]) == (model, target, batch)]
    ours = next(row for row in group if row["recipe"] == OURS)
    others = [row for row in group if row["recipe"] in TOOLS and row["outcome"] == "ok"]
    quality = "metric_sqnr_db" if ours["accuracy_top1_percent"] is None else "accuracy_top1_percent"
    good, fast = (max(others, key=lambda row: row[key]) for key in (quality, "speedup"))
    ratio, low, high = quotient(ours, fast)
    return {
        "model": model, "target": target, "batch": batch, "quality": quality,
        "ours": ours[quality], "best": good[quality], "best_tool": good["recipe"],
        "speedup": ours["speedup"], "best_speedup": fast["speedup"], "fastest": fast["recipe"],
        "ratio": ratio, "ratio_low": low, "ratio_high": high,
    }  # fmt: skip


def quotient(ours: dict[str, Any], other: dict[str, Any]) -> tuple[float, float, float]:
    """The quotient of two speed-ups, with the interval that their independent intervals give it."""
    halves = [math.log(row["speedup_high"] / row["speedup_low"]) / 2 for row in (ours, other)]
    ratio, spread = ours["speedup"] / other["speedup"], math.exp(math.hypot(*halves))
    return ratio, ratio / spread, ratio * spread


if __name__ == "__main__":
    main(Path(sys.argv[1]))
