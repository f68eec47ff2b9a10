"""Results of cells from rows of the tests' own, by title."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pqbench_orchestrator.results.cell import CellResult
from pqbench_orchestrator.results.tables import from_row

LEAST: dict[str, Any] = {
    "Model": "m", "Dataset": "d", "Recipe": "r", "Target": "t", "Batch Size": 1, "Concurrency": 1, "Outcome": "ok",
    "Reason": "", "Cell": "c",
}  # fmt: skip
PARTS = ("Held-out", "Selection", "Report")


def cell(row: Mapping[str, Any]) -> CellResult:
    """A result with the figures of a row; what every cell has, and the rest of an accuracy's change, is filled in."""
    values = {**LEAST, **row}
    for part in PARTS:
        if values.get(f"{part} Change") is not None:
            values = {f"{part} Accuracy": 90.0, f"{part} Images": 400} | values
        else:
            values = {name: value for name, value in values.items() if not name.startswith(f"{part} ")}
    for change in ("Accuracy Change", *(f"{part} Change" for part in PARTS)):
        if values.get(change) is None:
            values = {name: value for name, value in values.items() if not name.startswith(change)}
        else:
            values = {f"{change} Low": values[change] - 0.3, f"{change} High": values[change] + 0.3} | values
    return from_row(values)


def table(rows: Iterable[Mapping[str, Any]]) -> list[CellResult]:
    """Results with the figures of rows."""
    return [cell(row) for row in rows]
