"""How long `pqbench plan` takes, and how much memory, for experiments of 1,000 to 100,000 cells.

    python benchmarks/scale.py

Runs the command as a user does, with real services, which check every recipe; the largest one has 1,000 recipes.
Writes results/scale.json.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import yaml

RESULT = Path(__file__).parent / "results" / "scale.json"
RECIPES = (10, 100, 1000)
TARGETS, BATCHES, STREAMS = 2, 10, 5


def main() -> None:
    """Plan each experiment twice, without its cells and with them, and print seconds and memory."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for recipes in RECIPES:
            checked = planned(recipes, 1, 1, Path(name))
            whole = planned(recipes, BATCHES, STREAMS, Path(name))
            rows.append(whole | {"recipes": recipes, "seconds_for_checks": checked["seconds"]})
            row = rows[-1]
            print(f"{row['cells']:7} cells, {recipes:5} recipes: {row['seconds']:6.1f} s, {row['memory_mb']:5.0f} MB; "
                  f"of these {checked['seconds']:6.1f} s to start services and check the recipes")  # fmt: skip
    found = {"date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "rows": rows}
    found["version"] = metadata.version("pqbench-orchestrator")
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


def planned(recipes: int, batches: int, streams: int, folder: Path) -> dict[str, Any]:
    """Cells, steps, seconds and peak memory in MB of the command's own process for an experiment of so many recipes."""
    file = folder / "manifest.yaml"
    file.write_text(yaml.safe_dump(manifest(recipes, batches, streams), sort_keys=False))
    command = [sys.executable, "-m", "pqbench_orchestrator.cli", "plan", str(file), "--data", str(folder / "data")]
    started = time.perf_counter()
    with (folder / "out").open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        memory = 0
        while process.poll() is None:  # what the system keeps of an ended process includes its services
            with contextlib.suppress(psutil.NoSuchProcess):
                memory = max(memory, psutil.Process(process.pid).memory_info().rss)
            time.sleep(0.02)
    seconds = time.perf_counter() - started
    if process.returncode:
        sys.exit((folder / "out").read_text())
    cells = recipes * TARGETS * batches * streams
    return {"cells": cells, "seconds": seconds, "memory_mb": memory / 1e6}


def manifest(recipes: int, batches: int, streams: int) -> dict[str, Any]:
    amounts = [round((index + 1) / recipes * 0.9, 6) for index in range(recipes - 1)]
    prune = {"prune": {"method": "l1-global", "amount": amounts}}
    targets = [
        {"name": f"t{threads}", "backend": "onnxruntime", "options": {"threads": threads}}
        for threads in range(1, TARGETS + 1)
    ]
    return {
        "name": "scale", "models": [{"model": "digits/resnet"}], "datasets": [{"dataset": "digits"}],
        "recipes": [{"name": "baseline"}, {"name": "p", "steps": [prune]}], "targets": targets,
        "batch_sizes": list(range(1, batches + 1)), "concurrency": list(range(1, streams + 1)),
        "measure": {"scenario": "multi-stream"},
    }  # fmt: skip


if __name__ == "__main__":
    main()
