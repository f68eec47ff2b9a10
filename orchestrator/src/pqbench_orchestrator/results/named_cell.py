"""The cell that CELL names in commands, with the results of its steps."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from pqbench_orchestrator.results.cell import CellResult
from pqbench_orchestrator.results.tables import recorded
from pqbench_orchestrator.store.ledger import StepResult
from pqbench_orchestrator.store.run_folder import RunFolder
from pqbench_wire.errors import InvalidInput

MOST_LISTED = 4  # how many cells a message lists


def finished_cell(run: RunFolder, reference: str) -> tuple[CellResult, dict[str, StepResult]]:
    """A cell that is ok, and the results of its steps by role. Raises InvalidInput where CELL names no such cell."""
    cell, results = recorded_cell(run, reference)
    check_finished(cell, reference)
    return cell, results


def check_finished(cell: CellResult, reference: str) -> None:
    """Raises InvalidInput for a cell, which CELL names as `reference`, that is not ok."""
    if not cell.is_ok:
        raise InvalidInput(f"cell {reference} is {cell.outcome}: {cell.reason}")


def recorded_cell(run: RunFolder, reference: str) -> tuple[CellResult, dict[str, StepResult]]:
    """A cell, however it ended, and the results of those of its steps that have one, by role.

    `reference` is CELL: a cell's key, a unique beginning of it, or RECIPE@TARGET where one cell alone has both. Raises
    InvalidInput where it names none, or several.
    """
    with run.ledger() as ledger:
        cell = _named(recorded(ledger), reference, run)
        return cell, ledger.results_of(cell.key)


def profiled_alike(run: RunFolder, cell: CellResult) -> list[dict[str, StepResult]]:
    """The results of the steps of all cells that were profiled in a cell's place: only their recipes differ.

    That is those of its model, target, batch size, concurrency and precision.
    """
    with run.ledger() as ledger:
        alike = [one for one in recorded(ledger) if one.is_ok and _place(one) == _place(cell)]
        return [results for one in alike if "profile" in (results := ledger.results_of(one.key))]


def _place(cell: CellResult) -> tuple[object, ...]:
    return cell.model, cell.dataset, cell.target, cell.batch_size, cell.concurrency, cell.precision


def _named(cells: Sequence[CellResult], reference: str, run: RunFolder) -> CellResult:
    by_key = [cell for cell in cells if reference and cell.key.startswith(reference)]
    found = by_key or [cell for cell in cells if f"{cell.recipe}@{cell.target}" == reference]
    if len(found) == 1:
        return found[0]
    if not found:
        names = [f"{cell.recipe}@{cell.target}" for cell in cells]
        near = difflib.get_close_matches(reference, names, n=1)
        hint = (
            f"did you mean {near[0]!r}?"
            if near
            else f"name one by the column Cell of a table, or as {names[0]}"
            if names
            else "it has none"
        )
        raise InvalidInput(f"{run} has no cell {reference!r}; {hint}")
    listed = ", ".join(f"{cell.short_key} ({cell.model}, batch {cell.batch_size})" for cell in found[:MOST_LISTED])
    more = f" and {len(found) - MOST_LISTED} more" if len(found) > MOST_LISTED else ""
    raise InvalidInput(f"{len(found)} cells are called {reference!r}: name one by its key: {listed}{more}")
