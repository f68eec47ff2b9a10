"""Commands that execute an experiment: run, build, search, plan, sensitivity."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from pqbench_orchestrator import experiment
from pqbench_orchestrator.cli.app import (
    OK,
    RUN,
    SOME_FAILED,
    AllowCode,
    Data,
    InventoryPath,
    Json,
    ManifestPath,
    app,
    console,
    errors,
    note,
    show,
)
from pqbench_orchestrator.cli.decisions import decided
from pqbench_orchestrator.commands.merge import merge
from pqbench_orchestrator.commands.thesis_target import BEST, choose
from pqbench_orchestrator.config.load import read_experiment
from pqbench_orchestrator.config.shard import WHOLE
from pqbench_orchestrator.config.shard import parse as parse_shard
from pqbench_orchestrator.config.thesis import BACKENDS, ThesisTarget, is_thesis_config
from pqbench_orchestrator.execution.execute import NullWatcher
from pqbench_orchestrator.execution.session import Settings, session_of_manifest
from pqbench_orchestrator.output import recommendation, terminal
from pqbench_orchestrator.output.mlflow import check_reachable
from pqbench_orchestrator.planning.plan import Plan
from pqbench_orchestrator.results.cell import CellResult
from pqbench_orchestrator.results.tables import as_records, count_outcomes
from pqbench_orchestrator.store.durations import mean_durations
from pqbench_orchestrator.store.run_folder import MANIFEST, REPORT, TRIALS, RunFolder, find_run
from pqbench_wire.errors import InvalidInput, PqbenchError

ThesisTargetName = Annotated[
    str, typer.Option(help=f"Where a config.ini of the thesis runs: {', '.join((BEST, *BACKENDS))}.", metavar="BACKEND")
]

ShardName = Annotated[
    str, typer.Option(help="Only a part, for one of several machines, as 3/16; `pqbench merge` joins.", metavar="I/N")
]


@app.command("run")
def run_command(
    manifest: Annotated[Path, typer.Argument(help="Manifest (YAML); with --continue, also RUN.", show_default=False)],
    data: Data = Path("data"),
    inventory: InventoryPath = None,
    again: Annotated[
        bool, typer.Option("--continue", help="Finish the newest run of this manifest, or this run.")
    ] = False,
    allow_code: AllowCode = False,
    shard: ShardName = str(WHOLE),
    thesis_target: ThesisTargetName = BEST,
    store: Annotated[
        str, typer.Option(help="Share finished work with other machines here: file:///folder, s3://…", metavar="URL")
    ] = "",
    ledger: Annotated[
        str,
        typer.Option(help="Keep a new run's ledger in this database: postgresql://USER@HOST/DB", metavar="URL"),
    ] = "",
    on: Annotated[
        str, typer.Option(help="Run on the machines of this Ray cluster: ray://HOST:PORT, local-ray.", metavar="RAY")
    ] = "",
    mlflow: Annotated[str, typer.Option(help="Also log to this MLflow tracking URI.", metavar="URI")] = "",
    as_json: Json = False,
) -> None:
    """Run an experiment: manifest in, tables and report out."""
    if mlflow:
        check_reachable(mlflow)
    manifest = _to_continue(manifest, data) if again and not on else manifest
    with terminal.LiveDisplay(errors) as live:
        settings = settings_of(live, manifest, data, inventory, allow_code, again, thesis_target, shard)
        settings = replace(settings, store=store, ledger=ledger)
        if on:
            run, cells = _run_on(on, manifest, settings, again)
        else:
            run, cells = _run_here(manifest, settings, again, live)
    _show_results(run, cells, as_json, experiment.recommended(run))
    logged = not mlflow or _tracked(run, cells, mlflow)
    outcomes = count_outcomes(cells)
    raise typer.Exit(OK if logged and outcomes["ok"] and not outcomes["failed"] else SOME_FAILED)


def _run_here(
    manifest: Path, settings: Settings, again: bool, live: terminal.LiveDisplay
) -> tuple[RunFolder, list[CellResult]]:
    begin = experiment.run_to_continue if again else experiment.new_run
    run = begin(manifest, settings)
    try:
        return run, experiment.execute(run, settings, live, live.planned)
    except KeyboardInterrupt:
        errors.print(f"interrupted (finished steps kept); resume: {command_to_go_on(run, settings)}", markup=False)
        raise


def _run_on(on: str, manifest: Path, settings: Settings, again: bool) -> tuple[RunFolder, list[CellResult]]:
    from pqbench_orchestrator.commands.on_ray import run_on

    if settings.shard != WHOLE:
        raise InvalidInput("--on makes shards by itself: leave out --shard")
    try:
        return run_on(on, manifest, settings, again)
    except KeyboardInterrupt:
        errors.print("interrupted (finished shards kept); the same command with --continue goes on", markup=False)
        raise


@app.command("build")
def build_command(
    manifest: ManifestPath,
    data: Data = Path("data"),
    inventory: InventoryPath = None,
    allow_code: AllowCode = False,
    thesis_target: ThesisTargetName = BEST,
    as_json: Json = False,
) -> None:
    """Compress and build all engines of an experiment, and stop there: a later run with the same data reuses them."""
    with terminal.LiveDisplay(errors) as live:
        settings = settings_of(live, manifest, data, inventory, allow_code, False, thesis_target)
        settings = replace(settings, build_only=True)
        run = experiment.new_run(manifest, settings)
        try:
            cells = experiment.execute(run, settings, live, live.planned)
        except KeyboardInterrupt:
            errors.print("interrupted; what is built is kept: the same command goes on from there", markup=False)
            raise
    _show_results(run, cells, as_json)
    built = [cell for cell in cells if cell.outcome != "refused"]
    raise typer.Exit(OK if built and all(cell.engine and cell.outcome != "failed" for cell in built) else SOME_FAILED)


def _show_results(
    run: RunFolder, cells: Sequence[CellResult], as_json: bool, found: experiment.Recommended | None = None
) -> None:
    """Print a run's table and, last, its answer, if there is one."""
    if as_json:
        answer = {} if found is None else {"recommendations": [recommendation.as_json(*one, run) for one in found]}
        records = as_records(cells, run.name, run.started_at)
        print(json.dumps({"run": str(run), "cells": records} | answer))
        return
    console.print(terminal.results_table(cells))
    show(f"{terminal.summary(cells)}\nreport: {run / REPORT}")
    if run.shard != WHOLE:
        show(f"shard {run.shard}: what to ship takes all of them: pqbench merge RUN RUN …")
    for lines in recommendation.answer(found or [], str(run)):
        show("\n" + "\n".join(lines))


def _to_continue(path: Path, data: Path) -> Path:
    """What --continue is given: a manifest's file, or the folder of the run that RUN names."""
    is_file = path.exists() or path.suffix in (".yaml", ".yml", ".ini")
    return path if is_file else find_run(str(path), data).path


def settings_of(
    live: terminal.LiveDisplay,
    manifest: Path,
    data: Path,
    inventory: Path | None,
    allow_code: bool,
    again: bool,
    thesis_target: str = BEST,
    shard: str = str(WHOLE),
) -> Settings:
    """The settings of a run or a search; one that is continued by its folder uses the data folder that it lies in."""
    is_folder = again and manifest.is_dir()
    return Settings(
        data=RunFolder(manifest).data if is_folder else data,
        inventory=inventory,
        allow_code=allow_code,
        say=live.say,
        note=live.note,
        manifest=None if is_folder else manifest,
        is_new=not again,
        shard=parse_shard(shard),
        thesis_target=_thesis_target(thesis_target, manifest, inventory, live.note),
    )


def _thesis_target(name: str, file: Path, inventory: Path | None, tell: Callable[[str], None]) -> ThesisTarget:
    """Where a config.ini runs, which is told; a wrong one is refused before any service is asked."""
    if is_thesis_config(file):
        read_experiment(file)
    target = choose(name, file, inventory is not None)
    if is_thesis_config(file):
        tell(f"{file} runs on {target.backend} and {target.pytorch}, int8 is {target.int8} (--thesis-target)")
    return target


def command_to_go_on(run: RunFolder, settings: Settings) -> str:
    """The command line that continues an interrupted run or search."""
    more = f" --inventory {settings.inventory}" if settings.inventory else ""
    more += f" --store {settings.store}" if settings.store else ""
    return f"{run.command_to_continue}{more}{' --allow-code' if settings.allow_code else ''}"


def _tracked(run: RunFolder, cells: Sequence[CellResult], uri: str) -> bool:
    """Log a run to MLflow; returns whether that worked, and prints why not. The run is complete in any case."""
    try:
        experiment.track(run, cells, uri)
    except PqbenchError as error:
        errors.print(f"the run is complete, but could not be logged to MLflow: {error}", markup=False)
        return False
    return True


@app.command("merge")
def merge_command(
    runs: Annotated[
        list[str], typer.Argument(help=f"The runs of all shards. {RUN}", metavar="RUN…", show_default=False)
    ],
    data: Data = Path("data"),
    as_json: Json = False,
) -> None:
    """Put the runs of an experiment's shards together: one table, report and choice."""
    run, cells = merge([find_run(name, data) for name in runs], data)
    _show_results(run, cells, as_json, experiment.recommended(run))
    outcomes = count_outcomes(cells)
    raise typer.Exit(OK if outcomes["ok"] and not outcomes["failed"] else SOME_FAILED)


@app.command("search")
def search_command(
    manifest: Annotated[Path, typer.Argument(help="Manifest (YAML); with --continue, also RUN.", show_default=False)],
    data: Data = Path("data"),
    inventory: InventoryPath = None,
    again: Annotated[bool, typer.Option("--continue", help="Finish the newest search of this manifest.")] = False,
    trials: Annotated[int | None, typer.Option(min=1, help="Recipes to try cheaply; default: the manifest's.")] = None,
    allow_code: AllowCode = False,
    as_json: Json = False,
) -> None:
    """Find the recipe to ship without trying all: some are tried cheaply, then the best of them in full."""
    from pqbench_orchestrator.decide.search import space_of  # Optuna takes a second to import

    manifest = _to_continue(manifest, data) if again else manifest
    with terminal.LiveDisplay(errors) as live:
        settings = settings_of(live, manifest, data, inventory, allow_code, again)
        space_of(read_experiment(manifest / MANIFEST if manifest.is_dir() else manifest))
        begin = experiment.run_to_continue if again else experiment.new_run
        run = begin(manifest, settings, search=True)
        try:
            cells = experiment.search(run, settings, live, live.note, trials)
        except KeyboardInterrupt:
            errors.print(f"interrupted (finished trials kept); resume: {command_to_go_on(run, settings)}", markup=False)
            raise
    found = experiment.recommended(run)
    _show_results(run, cells, as_json, found)
    if not as_json:
        show(f"trials: {run / TRIALS}")
    raise typer.Exit(decided(found))


@app.command("plan")
def plan_command(
    manifest: ManifestPath,
    data: Data = Path("data"),
    inventory: InventoryPath = None,
    allow_code: AllowCode = False,
    thesis_target: ThesisTargetName = BEST,
    shard: ShardName = str(WHOLE),
    steps: Annotated[bool, typer.Option("--steps", help="Also list every step.")] = False,
    as_json: Json = False,
) -> None:
    """Show what an experiment would do, what is cached already, and what cannot run and why; execute no step."""
    target = _thesis_target(thesis_target, manifest, inventory, note)
    settings = Settings(data=data, inventory=inventory, allow_code=allow_code, note=note, thesis_target=target)
    settings = replace(settings, shard=parse_shard(shard))
    with session_of_manifest(manifest, settings, NullWatcher()) as session:
        state = {step.key: session.execution.state(step) for step in session.plan.steps}
    if as_json:
        print(json.dumps(_plan_json(session.plan, state)))
        return
    if steps:
        console.print(terminal.plan_table(session.plan, state))
    show(terminal.plan_summary(session.plan, state, mean_durations(data)))
    if any(cell.outcome for cell in session.plan.cells):
        console.print(terminal.refusals_table(session.plan))


@app.command("sensitivity")
def sensitivity_command(
    manifest: ManifestPath,
    data: Data = Path("data"),
    inventory: InventoryPath = None,
    allow_code: AllowCode = False,
    images: Annotated[int, typer.Option(min=16, help="Held-out training images.")] = 256,
    as_json: Json = False,
) -> None:
    """Prune and quantize one layer at a time: accuracy against amount and bits, as table and plot."""
    with terminal.LiveDisplay(errors) as live:
        settings = Settings(data=data, inventory=inventory, allow_code=allow_code, say=live.say, note=live.note)
        points, page = experiment.sensitivities(manifest, settings, images)
    if as_json:
        print(json.dumps({"page": str(page), "rows": [asdict(point) for point in points]}))
    else:
        show(f"{len(points)} points: {page.with_suffix('.csv')}\npage: {page}")


def _plan_json(plan: Plan, state: dict[str, str]) -> dict[str, Any]:
    steps = [
        {
            "key": s.key,
            "kind": s.kind,
            "label": s.label,
            "place": s.place,
            "needs": list(s.needs.values()),
            "state": state[s.key],
        }
        for s in plan.steps
    ]
    cells = [
        {"cell": c.key, "model": c.model, "dataset": c.dataset, "recipe": c.recipe.label, "target": c.target.name,
         "batch_size": c.batch_size, "concurrency": c.concurrency, "repeat": c.repeat,
         "outcome": c.outcome or "planned", "reason": c.reason}
        for c in plan.cells
    ]  # fmt: skip
    return {"steps": steps, "cells": cells}
