"""The history of an experiment: the figures of its cells in all runs of the manifest with one name."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from pqbench_orchestrator.decide.sides import definition_of, definitions
from pqbench_orchestrator.results.cell import Accuracy, CellResult, Comparison
from pqbench_orchestrator.results.tables import recorded
from pqbench_orchestrator.store.run_folder import RunFolder
from pqbench_wire.errors import InvalidInput


def history(runs: Iterable[RunFolder], manifest: str) -> dict[str, Any]:
    """The runs of a manifest, in the order given, and for each cell of theirs its figures in each run.

    "groups" maps a model, dataset and load to its series; a series has a name and points with the run's name and start.
    Where the manifest changed what a model or recipe of one name is, another series begins, which names that run. Runs
    that cannot be read are left out; the list of runs says why.
    """
    names: list[str] = []
    groups: dict[str, dict[str, list[dict[str, Any]]]] = {}
    known: dict[str, dict[str, str]] = {}  # recipe, target and load -> what they were -> the name of their series
    for run in runs:
        cells = _cells(run, manifest)
        if cells is None:
            continue
        names.append(run.name)
        defined = definitions(run)
        for cell in (cell for cell in cells if cell.is_ok and cell.timing is not None):
            group, name = _group(cell), f"{cell.recipe} on {cell.target}"
            series = known.setdefault(f"{group}, {name}", {})
            what = " of ".join(definition_of(cell, defined).values())
            series.setdefault(what, f"{name}, as changed in {run.name}" if series else name)
            groups.setdefault(group, {}).setdefault(series[what], []).append(_point(run, cell))
    return {"manifest": manifest, "runs": names, "groups": groups}


def _cells(run: RunFolder, manifest: str) -> list[CellResult] | None:
    try:
        with run.ledger() as ledger:
            return recorded(ledger) if ledger.manifest_name == manifest else None
    except InvalidInput:
        return None


def _group(cell: CellResult) -> str:
    parts = [cell.model, cell.dataset, f"batch {cell.batch_size}"]
    return ", ".join([*parts, *([f"{cell.concurrency} at once"] if cell.concurrency > 1 else [])])


def _point(run: RunFolder, cell: CellResult) -> dict[str, Any]:
    timing = cell.timing
    assert timing is not None
    against, accuracy = timing.comparison or Comparison(), cell.accuracy or Accuracy()
    return {
        "run": run.name,
        "started": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.started)),
        "stable": timing.is_stable is not False,
        "latency": [timing.median_ms, timing.median_low_ms, timing.median_high_ms],
        "speedup": [against.speedup, against.speedup_low, against.speedup_high],
        "accuracy": [cell.top1_percent, accuracy.low_percent, accuracy.high_percent],
        "size": [None if cell.engine_bytes is None else cell.engine_bytes / 1e6],
    }
