"""How long `pqbench plan` takes, and how much memory, for experiments of 1,000 to 100,000 cells; the ledger's pace.

    python benchmarks/scale.py [plan|ledger …]

Runs the command as a user does, with real services, which check every recipe; the largest one has 1,000 recipes. The
ledger records 100,000 steps one by one, each on disk before the next; then an execution of the same steps finds all of
them done, with which `--continue` begins. Writes results/scale.json.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import psutil
import yaml
from google.protobuf import json_format

from pqbench_orchestrator.execution.execute import Execution, NullWatcher
from pqbench_orchestrator.execution.services import Services
from pqbench_orchestrator.planning.plan import Plan
from pqbench_orchestrator.steps.step import Step
from pqbench_orchestrator.store.ledger import Ledger
from pqbench_orchestrator.store.step_cache import StepCache
from pqbench_wire.blobs import BlobStore

RESULT = Path(__file__).parent / "results" / "scale.json"
RECIPES = (10, 100, 1000)
TARGETS, BATCHES, STREAMS = 2, 10, 5
STEPS = 100_000  # of the ledger


@dataclass(frozen=True)
class Done:
    """The work of a step that is done already."""

    KIND: ClassVar[str] = "measure"
    REUSED: ClassVar[bool] = False


def main(parts: list[str]) -> None:
    """Run the parts and keep what they gave."""
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for part in parts or PARTS:
        row = {"date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count()}
        found[part] = row | {"version": metadata.version("pqbench-orchestrator")} | PARTS[part]()
        RESULT.write_text(json.dumps(found, indent=1) + "\n")


def plan() -> dict[str, Any]:
    """Plan each experiment twice, without its cells and with them."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for recipes in RECIPES:
            checked = planned(recipes, 1, 1, Path(name))
            whole = planned(recipes, BATCHES, STREAMS, Path(name))
            rows.append(whole | {"recipes": recipes, "seconds_for_checks": checked["seconds"]})
            row = rows[-1]
            print(f"{row['cells']:7} cells, {recipes:5} recipes: {row['seconds']:6.1f} s, {row['memory_mb']:5.0f} MB; "
                  f"of these {checked['seconds']:6.1f} s to start services and check the recipes")  # fmt: skip
    return {"rows": rows}


def ledger() -> dict[str, Any]:
    """Results a second that the ledger writes; seconds until an execution has found all of them done."""
    keys = [f"{index:064x}" for index in range(STEPS)]
    with tempfile.TemporaryDirectory() as name, Ledger(Path(name, "ledger.sqlite")) as opened:
        store = BlobStore(Path(name, "blobs"))
        blob = json_format.MessageToDict(store.put(b"samples"))
        result = {"timings": [{"median": 0.001, "samples": list(range(50))}], "samples": blob}
        started = time.perf_counter()
        for key in keys:
            opened.record(key=key, kind="measure", label="x", place="y", outcome="ok", seconds=1, result=result)
        written = time.perf_counter()
        steps = tuple(Step(key=key, label="x", place="y", spec=Done(), needs={}, stage=(0,)) for key in keys)
        with contextlib.closing(StepCache(Path(name, "steps.sqlite"))) as cache, Services({}) as services:
            execution = Execution(
                services=services, store=store, ledger=opened, cache=cache, datasets={}, watcher=NullWatcher()
            )
            begin = time.perf_counter()
            opened.discard_damaged()
            execution.run(Plan(steps=steps, cells=()), keep=True)
            seconds = time.perf_counter() - begin
    found = {"steps": STEPS, "written_per_s": STEPS / (written - started), "seconds_to_continue": seconds}
    print(f"ledger: {found['written_per_s']:.0f} results written a second; --continue of {STEPS:,}: {seconds:.1f} s")
    return found


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


PARTS = {"plan": plan, "ledger": ledger}


if __name__ == "__main__":
    main(sys.argv[1:])
