"""pqbench search against the whole grid: python benchmarks/search.py FOLDER

FOLDER holds CIFAR-10 and a pretrained ResNet-20 (cifar10_*_lossless*.npz, cifar10_resnet20.safetensors). Both begin
with an empty cache, in one run of this script. What the search found is judged by the grid's own measurements: by the
paired speed-up, which the machine's drift over the grid's half an hour does not touch.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from pqbench_orchestrator.config.manifest import Goal
from pqbench_orchestrator.decide.recommend import judged_on, violations
from pqbench_orchestrator.output.outputs import cells_of
from pqbench_orchestrator.results.cell import CellResult
from pqbench_orchestrator.store.run_folder import RunFolder

RESULT = Path(__file__).parent / "results/search.json"
AMOUNTS = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4]
MAX_DROP = 10.0
QUALITY, SHARE_OF_TIME = 1.02, 0.25


def manifest(data: Path, model: str) -> dict[str, Any]:
    """About 100 recipes: seven ways of pruning by eight amounts, each alone and with INT8, and what prunes nothing."""
    recalibrate = {"recalibrate": {"images": 256}}
    removals = {
        "taylor": {"criterion": "taylor", "scope": "local"},
        "taylor global": {"criterion": "taylor", "scope": "global"},
        "l1": {"criterion": "l1", "scope": "local"},
        "random": {"criterion": "random", "scope": "local"},
    }
    ways = {
        name: [{"prune": {"method": "removal", "amount": AMOUNTS, "images": 128, **options}}, recalibrate]
        for name, options in removals.items()
    }
    ways["l1-global"] = [{"prune": {"method": "l1-global", "amount": AMOUNTS}}]
    ways["ln-structured"] = [{"prune": {"method": "ln-structured", "amount": AMOUNTS}}, recalibrate]
    int8 = {"quantize": {"method": "int8-static", "images": 128}}
    recipes = [
        {"name": "baseline"},
        {"name": "int8", "steps": [int8]},
        {"name": "fp16", "steps": [{"quantize": "fp16"}]},
    ]
    recipes += [{"name": name, "steps": steps} for name, steps in ways.items()]
    recipes += [{"name": f"{name} int8", "steps": [*steps, int8]} for name, steps in ways.items()]
    (train,), (test,) = (list(data.glob(f"cifar10_{split}_lossless*.npz")) for split in ("train", "test"))
    return {
        "name": "grid",
        "models": [{"model": f"cifar/{model}", "weights": str(data / f"cifar10_{model}.safetensors")}],
        "datasets": [{"dataset": "cifar10", "config": {"train": str(train), "test": str(test)}}],
        "recipes": recipes,
        "targets": [{"name": "openvino", "backend": "openvino", "options": {"threads": 2}}],
        "batch_sizes": [32],
        "goal": {"max_drop": MAX_DROP},
    }


def timed(command: str, path: Path, folder: Path) -> tuple[float, dict[str, Any]]:
    """Run a pqbench command on a manifest in an empty data folder: seconds, and what it printed as JSON."""
    begin = time.perf_counter()
    call = [sys.executable, "-m", "pqbench_orchestrator.cli", command, str(path), "--data", str(folder), "--json"]
    done = subprocess.run(call, stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, 1):
        sys.exit(f"pqbench {command} ended with code {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return time.perf_counter() - begin, found


def feasible(cell: CellResult, judged: str) -> bool:
    """By the rule of the recommendation: accuracy on the images that judge."""
    return cell.is_ok and not violations([cell], Goal(max_drop=MAX_DROP), judged)


def main() -> int:
    """The grid, the search, and how they compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="resnet20")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "grid.yaml")
        path.write_text(yaml.safe_dump(manifest(options.folder.resolve(), options.model), sort_keys=False))
        search_seconds, searched = timed("search", path, Path(name, "search"))
        grid_seconds, whole = timed("run", path, Path(name, "grid"))
        grid = cells_of(RunFolder(Path(whole["run"])))
    cells = {cell.recipe: cell for cell in grid}
    judged = judged_on(list(cells.values()))
    speed = {recipe: cell.speedup or 1.0 for recipe, cell in cells.items() if feasible(cell, judged)}
    best = max(speed, key=lambda recipe: speed[recipe])
    chosen = searched["recommendations"][0]["best"]["recipe"]
    found = {
        "recipes": len(cells), "feasible": len(speed), "grid_s": grid_seconds, "search_s": search_seconds,
        "time_ratio": search_seconds / grid_seconds, "grid_best": best, "grid_best_speedup": speed[best],
        "search_best": chosen, "search_best_speedup_in_grid": speed.get(chosen), "model": options.model,
        "quality_ratio": speed[best] / speed[chosen] if chosen in speed else None, "max_drop": MAX_DROP,
        "date": time.strftime("%Y-%m-%d"), "machine": platform.platform(), "python": platform.python_version(),
    }  # fmt: skip
    print(
        "\n".join(
            f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}" for name, value in found.items()
        )
    )
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    good = found["quality_ratio"] is not None and found["quality_ratio"] <= QUALITY
    return 0 if good and found["time_ratio"] <= SHARE_OF_TIME else 1


if __name__ == "__main__":
    sys.exit(main())
