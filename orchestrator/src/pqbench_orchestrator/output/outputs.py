"""Writes and reads a run's outputs: its cells in the ledger, its tables, samples and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pqbench_orchestrator.config.manifest import dump
from pqbench_orchestrator.config.shard import WHOLE
from pqbench_orchestrator.decide.compare import versions_of_a_run
from pqbench_orchestrator.decide.recommend import Recommendation, recommend
from pqbench_orchestrator.output import sensitivity
from pqbench_orchestrator.output.recommendation import times
from pqbench_orchestrator.output.report.card import card_of
from pqbench_orchestrator.output.report.details import boxes, details
from pqbench_orchestrator.output.report.page import Report
from pqbench_orchestrator.output.report.page import write_report as write_page
from pqbench_orchestrator.output.thesis_csv import write_experiment
from pqbench_orchestrator.planning.plan import Plan
from pqbench_orchestrator.results.cell import CellResult, Confirmation
from pqbench_orchestrator.results.collect import collect, samples_of
from pqbench_orchestrator.results.tables import as_row, confirmation_from_row, recorded, write_csv, write_parquet
from pqbench_orchestrator.store.ledger import Ledger
from pqbench_orchestrator.store.run_folder import CSV, PARQUET, REPORT, RunFolder
from pqbench_orchestrator.store.samples import write_samples
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import InvalidInput


def write_outputs(
    run: RunFolder, plan: Plan, ledger: Ledger, store: BlobStore, record: Mapping[str, Any]
) -> list[CellResult]:
    """Write the cells into the ledger, the tables, the samples and the report; returns the cells.

    A run of a config.ini also gets the thesis' CSV. `record`: the run's environment. Raises BlobCorrupt where a blob
    turns out to be damaged.
    """
    cells = collect(plan, ledger, store)
    ledger.record_plan({cell.key: cell.steps for cell in plan.cells})
    ledger.record_cells((cell.key, cell.outcome, cell.reason, as_row(cell)) for cell in cells)
    write_csv(cells, run / CSV, run.name, run.started_at)
    write_parquet(cells, run / PARQUET, run.name, run.started_at)
    write_samples(samples_of(plan, ledger, store), run.path, ledger)
    write_report(run, cells, record)
    if run.is_of_thesis:
        write_experiment(cells, run.path.parent, run.started)
    return cells


def write_report(run: RunFolder, cells: Sequence[CellResult], record: Mapping[str, Any]) -> None:
    """Write a run's report.html; `record`: the run's environment."""
    manifest = run.manifest()
    choices = recommend(cells, manifest.goal) if run.shard == WHOLE else []  # a choice takes all shards
    answers = [(one, confirmed(run, one)) for one in choices]
    shown = details(run, cells)
    for found, again in answers:
        if found.best is not None and again is not None and again.timing is not None:
            shown[found.best.cell.key]["confirmed"] = times(again.timing)
    report = Report(
        run=run.name,
        folder=str(run),
        table=cells,
        record=dict(record),
        manifest=dump(manifest),
        details=shown,
        boxes=boxes(run),
        cards=[card_of(*answer, str(run)) for answer in answers],
        trials=run.trials(),
        versions=versions_of_a_run(run, record, {cell.target for cell in cells}),
        sensitivity=sensitivity.figures_of(run.path.parent, manifest),
    )
    write_page(run / REPORT, report)


def cells_of(run: RunFolder) -> list[CellResult]:
    """A run's cells as its ledger has them. Raises InvalidInput where it has none yet."""
    with run.ledger() as ledger:
        cells = recorded(ledger)
    if not cells:
        raise InvalidInput(f"{run}: no cell is recorded yet; {run.command_to_continue}")
    return cells


def confirmed(run: RunFolder, found: Recommendation) -> Confirmation | None:
    """The newest measurement of a recommended cell after the choice; None without one, or without a best cell."""
    if found.best is None:
        return None
    with run.ledger() as ledger:
        row = ledger.confirmation(found.best.cell.key)
    return confirmation_from_row(row) if row is not None else None
