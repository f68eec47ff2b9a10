"""One run: its folder, and the way from manifest to report."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pqbench_orchestrator import environment, samples, sensitivity, tables
from pqbench_orchestrator.again import Again, confirmed_row
from pqbench_orchestrator.compare import versions_of_a_run
from pqbench_orchestrator.execute import Execution, Nobody, Watcher
from pqbench_orchestrator.ledger import CELLS, Ledger, StepCache, cell_of
from pqbench_orchestrator.ledger import FILE as LEDGER
from pqbench_orchestrator.manifest import Goal, Inventory, Manifest, dump, load_inventory, load_manifest
from pqbench_orchestrator.plan import Plan, plan
from pqbench_orchestrator.recommend import Recommendation, recommend, text
from pqbench_orchestrator.report.details import boxes, details
from pqbench_orchestrator.report.page import Report, write_report
from pqbench_orchestrator.samples import FILE as SAMPLES
from pqbench_orchestrator.services import Launcher, Services, from_inventory
from pqbench_orchestrator.survey import Survey, load_datasets, survey
from pqbench_orchestrator.thesis import is_thesis_config, load_ini, write_experiment
from pqbench_orchestrator.tracking import log_run
from pqbench_wire.blobs import BlobStore
from pqbench_wire.catalog import first_problem
from pqbench_wire.errors import BlobCorrupt, InvalidInput, PqbenchError
from pqbench_wire.jobs import first_line
from pqbench_wire.process import process_name

MANIFEST = "manifest.yaml"
REMEASUREMENTS = 3  # of a choice, until its times settle
LOCK = ".lock"  # names the process that executes the run
TRIALS = "trials.csv"
STUDY = "search.sqlite"  # a search's trials: what tells its folder from a run's
THESIS = "config.ini"  # kept beside the manifest that it stands for


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the command line says besides the manifest."""

    data: Path
    inventory: Path | None = None
    allow_code: bool = False
    say: Callable[[str], None] = field(default=lambda _: None)
    compressor: Launcher | None = None  # in place of the inventory's
    note: Callable[[str], None] = field(default=lambda _: None)  # what stays to be read
    manifest: Path | None = None  # the user's file, of which a run keeps a copy
    is_new: bool = False  # the run's folder was made for this call, and is nobody else's


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A manifest with its plan, services running."""

    manifest: Manifest
    facts: Survey
    plan: Plan
    execution: Execution


def read_experiment(path: Path) -> Manifest:
    """The manifest in a YAML file, or in a config.ini of the thesis."""
    return load_ini(path) if is_thesis_config(path) else load_manifest(path)


def new_run(manifest_path: Path, settings: Settings, search: bool = False) -> Path:
    """Make the folder of a new run, or search; raises InvalidInput before anything is made."""
    manifest = read_experiment(manifest_path)
    _inventory(manifest, settings)
    experiments = settings.data / "experiments"
    experiments.mkdir(parents=True, exist_ok=True)
    name = f"{'search-' if search else ''}{_slug(manifest.name)}-{time.strftime('%Y%m%d-%H%M%S')}"
    for suffix in ("", *(f"-{n}" for n in range(2, 1000))):
        folder = experiments / (name + suffix)
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            (folder / MANIFEST).write_text(dump(manifest), encoding="utf-8")
            if search:
                (folder / STUDY).touch()
            if is_thesis_config(manifest_path):
                (folder / THESIS).write_bytes(manifest_path.read_bytes())
            return folder
    raise InvalidInput(f"{experiments}: no free name for {name}")


def run_to_continue(path: Path, settings: Settings, search: bool = False) -> Path:
    """The run, or search, to continue: the folder itself, or the newest of the manifest at `path`."""
    if path.is_dir():
        if not (path / MANIFEST).is_file():
            raise InvalidInput(f"{path}: not a run: it has no {MANIFEST}")
        if _is_search(path) != search:
            raise InvalidInput(f"{path} is {'a search' if _is_search(path) else 'no search'}: {_continuing(path)}")
        return path
    text = dump(read_experiment(path))
    experiments = settings.data / "experiments"
    candidates = sorted(experiments.glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime)
    for candidate in reversed(candidates):
        if candidate.read_text(encoding="utf-8", errors="replace") == text and _is_search(candidate.parent) == search:
            return candidate.parent
    raise InvalidInput(f"{path}: no run of this manifest in {settings.data / 'experiments'}; leave out --continue")


def _is_search(folder: Path) -> bool:
    return (folder / STUDY).is_file()


def _continuing(folder: Path) -> str:
    return f"pqbench {'search' if _is_search(folder) else 'run'} --continue {folder}"


def execute(folder: Path, settings: Settings, watcher: Watcher, planned: Callable[[Plan], None]) -> list[tables.Row]:
    """Do what is left of a run and write its tables and report, also when interrupted.

    `planned` is told the plan before any work.
    """
    with executing(folder, settings, watcher) as ready:
        planned(ready.plan)
        return complete(folder, ready, ready.plan, settings)


@contextlib.contextmanager
def executing(folder: Path, settings: Settings, watcher: Watcher) -> Iterator[Prepared]:
    """Hold a run's folder alone, with its plan, services running."""
    with _only_one(folder), contextlib.ExitStack() as stack:
        try:
            ready = stack.enter_context(prepared(folder / MANIFEST, folder, settings, watcher))
        except InvalidInput:
            if settings.is_new and not (folder / environment.FILE).is_file():  # no run is left of a wrong manifest
                shutil.rmtree(folder, ignore_errors=True)
            raise
        yield ready


def complete(folder: Path, ready: Prepared, made: Plan, settings: Settings) -> list[tables.Row]:
    """Do a plan's steps, write tables and report, also when interrupted, and measure again what is recommended."""
    ready.execution.ledger.describe({"steps": str(len(made.steps)), "manifest": ready.manifest.name})
    record = _environment(folder, ready)
    try:
        ready.execution.run(made)
    except BaseException:
        with contextlib.suppress(PqbenchError):  # what ended the run matters more
            write_outputs(folder, ready, made, record)  # of what there is
        raise
    table = _whole_outputs(folder, ready, made, record)
    chosen = recommend(table, ready.manifest.goal)
    if any(one.best is not None for one in chosen):
        _confirm(folder, chosen, ready.execution.services, ready.execution.store, settings.say)
        _write_report(folder, table, record, dump(ready.manifest))
    return table


def track(folder: Path, table: list[tables.Row], uri: str) -> None:
    """Log a finished run to MLflow."""
    record = environment.read(folder)
    versions = {f"{name} {key}": value for name, target in record["targets"].items()
                for key, value in target["versions"].items()}  # fmt: skip
    log_run(uri, folder, load_manifest(folder / MANIFEST).name, table, versions)


def sensitivities(manifest_path: Path, settings: Settings, images: int) -> tuple[list[sensitivity.Row], Path]:
    """Analyse the layers of a manifest's models; returns the rows and the page that shows them."""
    with prepared(manifest_path, None, settings, Nobody()) as ready:
        execution = ready.execution
        rows = sensitivity.analyse(
            ready.manifest, ready.facts, execution.services, execution.store, execution.datasets, images, settings.say
        )
        return rows, sensitivity.write(rows, sensitivity.folder_for(ready.manifest, settings.data))


def check(folder: Path, cell: str, settings: Settings, seconds: float) -> list[dict[str, Any]]:
    """A cell of a run measured again, beside its makers' own tools."""
    row, results = cell_of(folder, cell)
    with _services_of(folder, settings) as services:
        settings.say(f"starting {row['Target']}")
        return Again(row, results, services, BlobStore(settings.data / "blobs"), settings.say).check(seconds)


def goal_of(folder: Path, changes: dict[str, Any]) -> Goal:
    """The goal of a run's manifest with what is given in its place. Raises InvalidInput."""
    if not (folder / MANIFEST).is_file():
        raise InvalidInput(f"{folder}: not a run: it has no {MANIFEST}")
    values = load_manifest(folder / MANIFEST).goal.model_dump()
    try:
        return Goal.model_validate(values | {name: value for name, value in changes.items() if value is not None})
    except ValidationError as error:
        raise InvalidInput(first_problem(error)) from error


def recommendations(
    folder: Path, settings: Settings, goal: Goal, keep: Callable[[tables.Row], bool], measure: bool
) -> list[tuple[Recommendation, tables.Row | None]]:
    """What to ship, each with a measurement made after the choice: an earlier one, or, with `measure`, a new one."""
    found = recommend(_rows(folder), goal, keep)
    if measure:
        with _services_of(folder, settings) as services:
            _confirm(folder, found, services, BlobStore(settings.data / "blobs"), settings.say)
    return [(one, confirmed(folder, one)) for one in found]


def recommended(folder: Path) -> list[tuple[Recommendation, tables.Row | None]]:
    """What a run recommends by its manifest's goal, as it is recorded."""
    found = recommend(_rows(folder), load_manifest(folder / MANIFEST).goal)
    return [(one, confirmed(folder, one)) for one in found]


def confirmed(folder: Path, found: Recommendation) -> tables.Row | None:
    """What the newest measurement after the choice says of a recommended cell, if there is one."""
    if found.best is None:
        return None
    with Ledger(folder / LEDGER, read_only=True) as ledger:
        return ledger.confirmation(found.best.row["Cell"])


def _confirm(
    folder: Path, found: list[Recommendation], services: Services, store: BlobStore, say: Callable[[str], None]
) -> None:
    """Measure again what was recommended, where no earlier call did: the figures by which it was chosen flatter it.

    At most REMEASUREMENTS times, until the times are stable; the last measurement counts.
    """
    for one in found:
        if one.best is None or "Error" not in (confirmed(folder, one) or {"Error": "not yet"}):
            continue
        row, results = cell_of(folder, one.best.row["Cell"])
        for _ in range(REMEASUREMENTS):
            say(f"measuring {row['Recipe']} on {row['Target']} again, after the choice")
            try:
                columns = confirmed_row(row, Again(row, results, services, store, say).confirm(), store)
            except PqbenchError as error:  # the run itself is complete: its recommendation says what it lacks
                columns = {"Error": str(error)}
            if columns.get("Stable") is not False:
                break
        with Ledger(folder / LEDGER) as ledger:
            ledger.confirm(row["Cell"], columns)


def _services_of(folder: Path, settings: Settings) -> Services:
    """The services of a run that was made, started on first use."""
    manifest = load_manifest(folder / MANIFEST)
    return from_inventory(manifest, _inventory(manifest, settings), settings.data, folder / "logs", False)


def _rows(folder: Path) -> list[tables.Row]:
    """A run's table. Raises InvalidInput where there is none yet."""
    with Ledger(folder / LEDGER, read_only=True) as ledger:
        table = tables.recorded(ledger)
    if not table:
        raise InvalidInput(f"{folder}: no cell is recorded yet; pqbench run --continue {folder}")
    return table


def _whole_outputs(folder: Path, ready: Prepared, made: Plan, record: dict[str, Any]) -> list[tables.Row]:
    """The outputs of a finished plan; steps whose blobs prove to be damaged only now are done again."""
    for _ in made.steps:
        try:
            return write_outputs(folder, ready, made, record)
        except BlobCorrupt:
            ready.execution.run(made)
    return write_outputs(folder, ready, made, record)


def write_outputs(folder: Path, ready: Prepared, made: Plan, record: dict[str, Any]) -> list[tables.Row]:
    """Write the cells into the ledger, the tables and the report; returns the table."""
    ledger, store = ready.execution.ledger, ready.execution.store
    table = tables.rows(made, ledger, store)
    ledger.describe({f"cell {cell.key}": json.dumps(cell.steps) for cell in made.cells})
    ledger.record_cells((row["Cell"], row["Outcome"], row["Reason"], row) for row in table)
    ledger.describe({CELLS: json.dumps([cell.key for cell in made.cells])})
    tables.write_csv(table, folder / "results.csv")
    tables.write_parquet(table, folder / "results.parquet")
    tables.write_samples(made, ledger, store, folder / SAMPLES)
    ledger.describe({SAMPLES: samples.digest_of(folder)})
    _write_report(folder, table, record, dump(ready.manifest))
    if (folder / THESIS).is_file():
        write_experiment(table, folder.parent, (folder / MANIFEST).stat().st_mtime)
    return table


@contextlib.contextmanager
def prepared(manifest_path: Path, folder: Path | None, settings: Settings, watcher: Watcher) -> Iterator[Prepared]:
    """The plan of a manifest, its services running; without a `folder` nothing of a run is written."""
    manifest = read_experiment(manifest_path)
    inventory = _inventory(manifest, settings)
    with _naming(settings.manifest or manifest_path):
        datasets = load_datasets(manifest, settings.data, settings.allow_code, settings.say)
    store = BlobStore(settings.data / "blobs")
    cache = StepCache(settings.data / "steps.sqlite", settings.note)
    ledger = _ledger(folder, settings.note)
    logs = (folder or settings.data) / "logs"
    try:
        with from_inventory(
            manifest, inventory, settings.data, logs, settings.allow_code, settings.compressor
        ) as services:
            with _naming(settings.manifest or manifest_path):
                facts = survey(manifest, services, store, datasets, settings.say)
            for note in facts.notes:
                settings.note(f"note: {note}")
            made = plan(manifest, facts, folder.name if folder else "plan", environment.own_versions())
            execution = Execution(
                services=services,
                store=store,
                ledger=ledger,
                cache=cache,
                datasets=datasets,
                watcher=watcher,
            )
            yield Prepared(manifest=manifest, facts=facts, plan=made, execution=execution)
    finally:
        ledger.close()
        cache.close()


def _ledger(folder: Path | None, note: Callable[[str], None]) -> Ledger:
    """A run's ledger without what was damaged in it. Raises InvalidInput for one that lost all it had."""
    if folder is None:
        return Ledger(Path(":memory:"))
    ledger = Ledger(folder / LEDGER)
    with contextlib.ExitStack() as stack:
        stack.callback(ledger.close)
        if ledger.is_empty and (folder / environment.FILE).is_file():
            raise InvalidInput(
                f"{folder / LEDGER} is empty, but the run had begun: restore the file, or begin a new run"
            )
        for what in ledger.discard_damaged():
            note(f"note: {folder / LEDGER}: the record of {what} was damaged: it is made again")
        stack.pop_all()
    return ledger


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the manifest's file in what is wrong with it."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from error


def _environment(folder: Path, ready: Prepared) -> dict[str, Any]:
    """The run's environment record, written to its folder; a continued run keeps its start."""
    path = folder / environment.FILE
    record = environment.record(ready.facts, folder.name)
    if path.is_file():
        record |= {"started": environment.read(folder)["started"], "continued": record["started"]}
    _write_json(path, record)
    return record


def report_again(folder: Path) -> tuple[Path, list[tables.Row]]:
    """Write a run's report anew from its ledger; returns the page and the table."""
    table = _rows(folder)
    record = environment.read(folder)
    _write_report(folder, table, record, dump(load_manifest(folder / MANIFEST)))
    return folder / "report.html", table


def _write_report(folder: Path, table: list[tables.Row], record: dict[str, Any], manifest: str) -> None:
    chosen = recommend(table, load_manifest(folder / MANIFEST).goal)
    report = Report(
        run=folder.name,
        table=table,
        record=record,
        manifest=manifest,
        details=details(folder, table),
        boxes=boxes(folder),
        recommendations=[text(one, str(folder), confirmed(folder, one)) for one in chosen],
        trials=_trials(folder),
        versions=versions_of_a_run(folder, record, {row["Target"] for row in table}),
        sensitivity=sensitivity.figures_of(folder.parent, load_manifest(folder / MANIFEST)),
    )
    write_report(folder / "report.html", report)


def _trials(folder: Path) -> list[dict[str, str]]:
    """What a search tried cheaply, as its file has it; nothing for a run."""
    if not (folder / TRIALS).is_file():
        return []
    try:
        with (folder / TRIALS).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (csv.Error, ValueError) as error:
        raise InvalidInput(
            f"{folder / TRIALS} is damaged: {first_line(error)}; {_continuing(folder)} writes it anew"
        ) from error


def _inventory(manifest: Manifest, settings: Settings) -> Inventory:
    return load_inventory(settings.inventory, manifest) if settings.inventory else Inventory()


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidInput(f"{folder}: this run is being executed by another process") from None
        file.truncate(0)
        file.write(process_name(os.getpid()))
        file.flush()
        yield


def is_running(folder: Path) -> bool:
    """Whether the process that its lock names lives."""
    lock = folder / LOCK
    name = lock.read_text(errors="replace") if lock.is_file() else ""
    pid = name.partition("-")[0]
    return pid.isdecimal() and process_name(int(pid)) == name


def _write_json(path: Path, value: object) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=2, sort_keys=True), encoding="utf-8")
    partial.replace(path)


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
