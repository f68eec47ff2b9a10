"""Writes the CSV of the thesis (the master thesis tool PQ Bench): with its columns, names and file name."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from pathlib import Path

from pqbench_orchestrator.config.thesis import UNPRUNED
from pqbench_orchestrator.results.cell import OFF, CellResult
from pqbench_orchestrator.results.tables import THESIS_COLUMNS, as_row, harmless, title_of


def write_experiment(table: Sequence[CellResult], folder: Path, started: float) -> Path:
    """Write Experiment_<start time>.csv with the thesis' eleven columns into `folder`; returns its path.

    `started`: the run's start in seconds since the epoch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"Experiment_{time.strftime('%Y-%m-%d_%H-%M-%S', time.localtime(started))}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, THESIS_COLUMNS, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(harmless(as_row(cell) | _thesis_names(cell.recipe)) for cell in table)
    return path


def _thesis_names(recipe: str) -> dict[str, str]:
    """The thesis' names of pruner and quantizer, from a recipe's name as `config.thesis` gives it."""
    pruning, _, quantizer = recipe.partition(" + ")
    pruner = OFF if pruning == UNPRUNED else pruning.rpartition(" ")[0]
    return {title_of("pruner"): pruner, title_of("quantizer"): quantizer or OFF}
