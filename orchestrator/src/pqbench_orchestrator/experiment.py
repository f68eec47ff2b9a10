"""The work behind each command that needs a run or a manifest, composed of the other modules."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pqbench_orchestrator.config.latencies import check_for_run, needs_times
from pqbench_orchestrator.config.load import read_experiment
from pqbench_orchestrator.config.manifest import Goal
from pqbench_orchestrator.config.shard import WHOLE
from pqbench_orchestrator.decide import layer_times
from pqbench_orchestrator.decide.recommend import Recommendation, recommend
from pqbench_orchestrator.decide.remeasure import Line, Remeasurement
from pqbench_orchestrator.decide.sensitivity import Point, analyse
from pqbench_orchestrator.execution import environment
from pqbench_orchestrator.execution.execute import NullWatcher, Watcher
from pqbench_orchestrator.execution.services import Services
from pqbench_orchestrator.execution.session import (
    Session,
    Settings,
    inventory_of,
    services_of_run,
    session_of_manifest,
    session_of_run,
)
from pqbench_orchestrator.execution.shared import SharedStore
from pqbench_orchestrator.output import mlflow, sensitivity
from pqbench_orchestrator.output.outputs import cells_of, confirmed, write_outputs, write_report
from pqbench_orchestrator.planning.plan import Plan
from pqbench_orchestrator.results.cell import CellResult, Confirmation
from pqbench_orchestrator.results.named_cell import finished_cell
from pqbench_orchestrator.results.tables import confirmation_as_row
from pqbench_orchestrator.steps.step import blobs_of_run
from pqbench_orchestrator.store import postgres
from pqbench_orchestrator.store.run_folder import REPORT, RunFolder, folder_to_continue, new_folder
from pqbench_wire.blobs import BlobStore
from pqbench_wire.catalog import first_problem
from pqbench_wire.errors import BlobCorrupt, InvalidInput, NotFound, PqbenchError, Unavailable

SHARE_TRIES, SHARE_PAUSE = 5, 30.0  # of putting a finished run's blobs into a store that is away, and seconds between

Recommended = list[tuple[Recommendation, Confirmation | None]]


def new_run(file: Path, settings: Settings, search: bool = False) -> RunFolder:
    """Make the folder of a new run, search or build for a file. Raises InvalidInput before anything is made."""
    manifest = read_experiment(file, settings.thesis_target)
    if not search:
        check_for_run(manifest)
    inventory_of(manifest, settings)
    settings.shard.pairs(manifest)
    if settings.ledger:
        postgres.check(settings.ledger)
    return new_folder(settings.data, file, manifest, search, settings.build_only, settings.shard, settings.ledger)


def run_to_continue(path: Path, settings: Settings, search: bool = False) -> RunFolder:
    """The run, or search, to continue: the folder `path`, or the newest one of the manifest at `path`."""
    return folder_to_continue(settings.data, path, search, settings.thesis_target, settings.shard)


def execute(run: RunFolder, settings: Settings, watcher: Watcher, planned: Callable[[Plan], None]) -> list[CellResult]:
    """Do what is left of a run and write its outputs, also when interrupted; first call `planned` with the plan."""
    with session_of_run(run, settings, watcher) as session:
        planned(session.plan)
        return complete(run, session, session.plan, settings)


def search(
    run: RunFolder, settings: Settings, watcher: Watcher, tell: Callable[[str], None], trials: int | None = None
) -> list[CellResult]:
    """Begin or continue the search in a folder; returns the cells that were tried in full.

    `tell` is called with a text for each trial, which also shows the Pareto front so far. Layers' times are measured
    first, where recipes need them.
    """
    from pqbench_orchestrator.decide.search import Search  # Optuna takes a second to import

    if any(map(needs_times, run.manifest().recipes)):
        _measure_layers(run, settings, watcher, tell)
    with session_of_run(run, settings, watcher) as session:
        found = Search(run, session, tell, trials)
        found.explore()
        return complete(run, session, found.promoted(), settings)


def _measure_layers(run: RunFolder, settings: Settings, watcher: Watcher, tell: Callable[[str], None]) -> None:
    with session_of_run(run, settings, watcher, layer_times.profiling) as session:
        cells = layer_times.cells_to_profile(run.manifest(), session.plan)
        steps = layer_times.steps_of(itertools.chain(*cells.values()), session.plan)
        session.execution.ledger.begin(session.manifest.name, len(steps))
        run.write_environment(environment.record(session.facts, run.name))
        fits = {definition: layer_times.fit_to(some, session) for definition, some in cells.items()}
        for name, found in fits.items():
            tell(f"layers' times ({name}): {found.summary}")
        run.write_latencies({
            name: {"latencies": found.as_option(), "cells": found.cells, "error": found.error}
            for name, found in fits.items()
        })  # fmt: skip


def complete(run: RunFolder, session: Session, plan: Plan, settings: Settings) -> list[CellResult]:
    """Do a plan's steps, write the outputs (also when interrupted), and measure the recommended cells again."""
    execution = session.execution
    execution.ledger.begin(session.manifest.name, len(plan.steps))
    record = run.write_environment(environment.record(session.facts, run.name))
    run.write_materials(environment.materials(session.facts).values())
    try:
        execution.run(plan)
    except BaseException:
        with contextlib.suppress(PqbenchError):  # the exception that ended the run matters more
            write_outputs(run, plan, execution.ledger, execution.store, record)  # of the steps done so far
        raise
    cells = _whole_outputs(run, session, plan, record)
    if session.shared is not None:
        _share(run, session.shared, execution.store, settings.say)
    if run.shard != WHOLE:
        return cells
    chosen = recommend(cells, session.manifest.goal)
    if any(one.best is not None for one in chosen):
        _confirm(run, chosen, execution.services, execution.store, settings.say)
        write_report(run, cells, record)
    return cells


def _share(run: RunFolder, shared: SharedStore, blobs: BlobStore, say: Callable[[str], None]) -> None:
    """Put all blobs of a finished run into a shared store. Raises Unavailable, which says how to try again."""
    for left in reversed(range(SHARE_TRIES)):
        try:
            return shared.push(blobs_of_run(run), blobs)
        except (Unavailable, BlobCorrupt, NotFound) as error:
            if not left or not isinstance(error, Unavailable):
                raise Unavailable(
                    f"{run} is complete, but not all of its blobs are shared: {error}; "
                    f"{run.command_to_continue} --store {shared.url} tries again"
                ) from error
            say(f"{error}; trying again in {SHARE_PAUSE:.0f} s")
            time.sleep(SHARE_PAUSE)
    return None


def _whole_outputs(run: RunFolder, session: Session, plan: Plan, record: dict[str, Any]) -> list[CellResult]:
    """Write the outputs of a finished plan; steps whose blobs turn out to be damaged only now are done again."""
    execution = session.execution
    for _ in plan.steps:
        try:
            return write_outputs(run, plan, execution.ledger, execution.store, record)
        except BlobCorrupt:
            execution.run(plan)
    return write_outputs(run, plan, execution.ledger, execution.store, record)


def track(run: RunFolder, cells: Sequence[CellResult], uri: str) -> None:
    """Log a finished run to the MLflow tracking server at `uri`. Raises Failed."""
    versions = {
        f"{name} {key}": value
        for name, target in run.environment()["targets"].items()
        for key, value in target["versions"].items()
    }
    mlflow.log_run(uri, run.path, run.manifest().name, cells, versions)


def sensitivities(file: Path, settings: Settings, images: int) -> tuple[list[Point], Path]:
    """Analyse the sensitivity of each layer of a manifest's models; returns the points and the page's path.

    `images`: how many held-out training images accuracy is measured on.
    """
    with session_of_manifest(file, settings, NullWatcher()) as session:
        execution = session.execution
        points = analyse(
            session.manifest, session.facts, execution.services, execution.store, execution.datasets, images,
            settings.say,
        )  # fmt: skip
        return points, sensitivity.write(points, sensitivity.folder_for(session.manifest, settings.data))


def check(run: RunFolder, cell: str, settings: Settings, seconds: float) -> list[Line]:
    """Measure the cell with the key `cell` again, with pqbench and with vendor tools, which run for `seconds` each."""
    found, results = finished_cell(run, cell)
    with services_of_run(run, settings) as services:
        settings.say(f"starting {found.target}")
        return Remeasurement(found, results, services, run.blobs(settings.data), settings.say).check(seconds)


def goal_of(run: RunFolder, changes: dict[str, Any]) -> Goal:
    """The goal of a run's manifest, with those `changes` that are not None put in. Raises InvalidInput."""
    values = run.manifest().goal.model_dump()
    try:
        return Goal.model_validate(values | {name: value for name, value in changes.items() if value is not None})
    except ValidationError as error:
        raise InvalidInput(first_problem(error)) from error


def recommendations(
    run: RunFolder, settings: Settings, goal: Goal, keep: Callable[[CellResult], bool], measure: bool
) -> Recommended:
    """What to ship, each with the measurement made after the choice, if there is one.

    Only cells for which `keep` is true are considered. With `measure`, a choice that has no such measurement yet is
    measured now.
    """
    if run.shard != WHOLE:
        raise InvalidInput(f"{run} is shard {run.shard}, which shows no choice: pqbench merge puts the shards together")
    found = recommend(cells_of(run), goal, keep)
    if measure and not run.is_merged:
        with services_of_run(run, settings) as services:
            _confirm(run, found, services, run.blobs(settings.data), settings.say)
    return [(one, confirmed(run, one)) for one in found]


def recommended(run: RunFolder) -> Recommended:
    """What a run recommends by its manifest's goal, from the recorded results; measures nothing. A shard: nothing."""
    if run.shard != WHOLE:
        return []
    found = recommend(cells_of(run), run.manifest().goal)
    return [(one, confirmed(run, one)) for one in found]


def report_again(run: RunFolder) -> tuple[Path, list[CellResult]]:
    """Write a run's report again from its ledger; returns the page's path and the cells."""
    cells = cells_of(run)
    write_report(run, cells, run.environment())
    return run / REPORT, cells


def _confirm(
    run: RunFolder,
    found: Sequence[Recommendation],
    services: Services,
    store: BlobStore,
    say: Callable[[str], None],
) -> None:
    """Measure the recommended cells again, unless an earlier call did so with success.

    The figures by which a cell was chosen are biased in its favour; a measurement after the choice is not.
    """
    for one in found:
        earlier = confirmed(run, one)
        if one.best is None or one.best.cell.is_built_only or (earlier is not None and earlier.timing is not None):
            continue
        cell, results = finished_cell(run, one.best.cell.key)
        confirmation = Remeasurement(cell, results, services, store, say).confirm()
        with run.ledger_to_write() as ledger:
            ledger.confirm(cell.key, confirmation_as_row(confirmation))
