"""Which layers and blocks of ResNet-56 to remove: a latency fitted to measured cells, then `pqbench search`.

    python benchmarks/allocation.py DATA

For each runtime: a plain grid (INT8 alone, and Taylor removal of shares of the MACs with INT8); a few dozen cells of
random removal with INT8, to which `pqbench why --latencies` fits the time of each layer; a search over blocks removed,
and over channels removed by that latency, compensated, with INT8. Choices are made on one half of the images, and what
was chosen is judged on the other. It is timed once more beside INT8 alone and the fastest of the plain grid. DATA holds
cifar10_resnet56.safetensors and the lossless CIFAR-10 files. Writes results/allocation.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from compensation import INT8, PQBENCH, TIMED, cifar, depth, experiment, lossless_images, removal

from pqbench_orchestrator.config.recipes import Recipe

RESULT = Path(__file__).parent / "results" / "allocation.json"
MAX_DROP = 1.0
WIDTHS = [round(0.08 + 0.03 * index, 2) for index in range(24)]  # shares of each layer's channels
FIT = {"compensate": {"images": 512}}
RANKED = {"criterion": "reconstruction", "scope": "global", "images": 512, "round_to": 8}
MULTIPLES = {"onnxruntime": 16, "openvino": 8}
FIGURES = (
    "recipe",
    "accuracy_top1_percent",
    "selection_change_points",
    "report_percent",
    "report_change_points",
    "median_ms",
    "speedup",
    "speedup_low",
    "speedup_high",
    "is_stable",
)


def main(data: Path) -> None:
    """Run everything for both runtimes."""
    data = data.resolve()
    found: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "max_drop": MAX_DROP}
    with tempfile.TemporaryDirectory() as name:  # what was compressed for one runtime serves the other
        for target in TIMED["targets"]:
            found[target["backend"]] = one = allocate(data, Path(name), target)
            print(json.dumps(one, indent=1))
            RESULT.write_text(json.dumps(found, indent=1) + "\n")


def allocate(data: Path, folder: Path, target: dict[str, Any]) -> dict[str, Any]:
    """The grid's choice, the fit, and the search's choice on one runtime."""
    grid = command("run", manifest(data, target, plain()), folder)
    seconds = -time.monotonic()
    widths = {"name": "int8, random removal", "steps": [random_removal(), INT8]}
    fitted = command("run", manifest(data, target, [widths], profile=0.3), folder)
    first = next(cell["recipe"] for cell in fitted["cells"] if cell["precision"] == "INT8" and cell["outcome"] == "ok")
    latencies = command("why", None, folder, fitted["run"], f"{first}@{target['name']}", "--latencies")
    seconds += time.monotonic()
    space = spaces(latencies["latencies"], MULTIPLES[target["backend"]])
    begin = time.monotonic()
    searched = command("search", manifest(data, target, space, search={"trials": 10, "promoted": 2}), folder)
    search_seconds = time.monotonic() - begin
    chosen, best = (one["recommendations"][0]["best"]["recipe"] for one in (searched, grid))
    finalists = [recipe for recipe in expanded(plain() + space) if recipe["name"] in {"int8", chosen, best}]
    final = command("run", manifest(data, target, finalists), folder)
    return {
        "fit": {"cells": latencies["cells"], "error": latencies["error"], "seconds": seconds},
        "search": {"chosen": chosen, "seconds": search_seconds, "tried": trials(Path(searched["run"]))},
        "grid": {"chosen": best, "rows": rows(grid)},
        "final": rows(final),
        "environment": json.loads(Path(final["run"], "environment.json").read_text()),
    }


def plain() -> list[dict[str, Any]]:
    """The recipes of a plain grid."""
    recalibrate = {"recalibrate": {"images": 512}}
    shares = (0.1, 0.2, 0.3, 0.4)
    return [{"name": "int8", "steps": [INT8]}] + [
        {"name": f"taylor {share}, int8", "steps": [removal(share, criterion="taylor"), recalibrate, INT8]}
        for share in shares
    ]


def random_removal() -> dict[str, Any]:
    """Removal whose only purpose is layers of many widths."""
    return {"prune": {"method": "removal", "criterion": "random", "amount": WIDTHS, "round_to": 4}}


def spaces(latencies: dict[str, Any], multiples: int) -> list[dict[str, Any]]:
    """The families of the search."""
    by_latency = RANKED | {"target": "latency", "latencies": latencies, "round_to": multiples}
    shares = [0.1, 0.15, 0.2, 0.25, 0.3, 0.33, 0.37, 0.4, 0.45, 0.5]

    def blocks(share: Any) -> dict[str, Any]:
        return depth(share, images=512)

    def channels(share: Any) -> dict[str, Any]:
        return {"prune": {"method": "removal", "amount": share} | by_latency}

    return [
        {"name": "blocks, int8", "steps": [blocks(shares), FIT, INT8]},
        {"name": "channels, int8", "steps": [channels([0.05, 0.1, 0.15, 0.2, 0.25]), FIT, INT8]},
        {"name": "blocks and channels, int8", "steps": [blocks([0.2, 0.25, 0.3]), channels([0.04, 0.08]), FIT, INT8]},
    ]


def expanded(recipes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One recipe for each combination of amounts, named as pqbench names them."""
    return [
        {"name": one.label, "steps": [_written(step) for step in one.steps]}
        for recipe in recipes
        for one in Recipe.model_validate(recipe).expanded()
    ]


def _written(step: Any) -> dict[str, Any]:
    method = {"method": step.method} if step.kind in ("prune", "quantize") else {}
    return {step.kind: method | step.config}


def manifest(data: Path, target: dict[str, Any], recipes: list[dict[str, Any]], profile: float = 0.0,
             **more: Any) -> dict[str, Any]:  # fmt: skip
    """A manifest on one runtime."""
    measure = {"min_seconds": 1 if profile else 2, "max_seconds": 2 if profile else 4, "profile_seconds": profile}
    whole = experiment(cifar(data), lossless_images(data), [])
    own = {"recipes": [{"name": "unpruned"}, *recipes], "targets": [target], "measure": measure}
    return whole | own | {"goal": {"max_drop": MAX_DROP}} | more


def command(name: str, values: dict[str, Any] | None, folder: Path, *arguments: str) -> Any:
    """What a pqbench command answers as JSON; it works in a folder's data."""
    file = folder / "manifest.yaml"
    if values is not None:
        file.write_text(yaml.safe_dump(values, sort_keys=False))
        arguments = (str(file), "--data", str(folder / "data"), *arguments)
    done = subprocess.run([*PQBENCH, name, *arguments, "--json"], stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, 1):
        sys.exit(f"pqbench {name} ended with code {done.returncode}")
    return json.loads(done.stdout)


def rows(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [{name: cell.get(name) for name in FIGURES} for cell in answer["cells"]]


def trials(run: Path) -> str:
    """The cheap trials as CSV."""
    return (run / "trials.csv").read_text()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
