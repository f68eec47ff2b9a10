"""A session: a manifest with its plan and its running services, in which commands execute something."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pqbench_orchestrator.config.inventory import Inventory, load_inventory
from pqbench_orchestrator.config.latencies import without_latencies
from pqbench_orchestrator.config.load import read_experiment
from pqbench_orchestrator.config.manifest import Manifest
from pqbench_orchestrator.config.shard import WHOLE, Shard
from pqbench_orchestrator.config.thesis import ON_CPU, ThesisTarget
from pqbench_orchestrator.execution import environment
from pqbench_orchestrator.execution.execute import Execution, Watcher
from pqbench_orchestrator.execution.services import Launcher, Services, from_inventory
from pqbench_orchestrator.execution.shared import SharedStepCache, SharedStore
from pqbench_orchestrator.planning.facts import Survey
from pqbench_orchestrator.planning.plan import Plan, plan
from pqbench_orchestrator.planning.survey import load_datasets, survey
from pqbench_orchestrator.store.ledger import Ledger
from pqbench_orchestrator.store.run_folder import MANIFEST, RunFolder
from pqbench_orchestrator.store.step_cache import FILE as STEP_CACHE
from pqbench_orchestrator.store.step_cache import StepCache
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a command besides the manifest."""

    data: Path  # the data folder
    inventory: Path | None = None
    allow_code: bool = False
    say: Callable[[str], None] = field(default=lambda _: None)  # shows what is going on, until the next call
    compressor: Launcher | None = None  # in place of the inventory's first compressor
    note: Callable[[str], None] = field(default=lambda _: None)  # prints a line that stays
    manifest: Path | None = None  # the user's file, to be named in messages; a run keeps a copy
    is_new: bool = False  # the run's folder was made for this call
    build_only: bool = False  # stop after the engines
    shard: Shard = WHOLE  # of a new run
    thesis_target: ThesisTarget = ON_CPU  # where a config.ini runs
    store: str = ""  # URL of a store that several machines share
    ledger: str = ""  # URL of a PostgreSQL database for the ledger of a new run


@dataclass(frozen=True, kw_only=True)
class Session:
    """A manifest with the facts about it, its plan, and the execution with its services."""

    manifest: Manifest
    facts: Survey
    plan: Plan
    execution: Execution
    shared: SharedStore | None = None


@contextlib.contextmanager
def session_of_run(
    run: RunFolder, settings: Settings, watcher: Watcher, change: Callable[[Manifest], Manifest] | None = None
) -> Iterator[Session]:
    """The session of a run, with its folder locked; of its manifest, or of what `change` makes of that.

    Where the manifest turns out to be wrong (InvalidInput) before the first step of a new run, its folder is removed.
    """
    with run.held(), contextlib.ExitStack() as stack:
        try:
            manifest = change(run.manifest()) if change else run.manifest()
            ledger = stack.enter_context(_healed(run, settings.note))
            session = stack.enter_context(_session(manifest, run, ledger, settings, watcher))
        except InvalidInput:
            if settings.is_new and not run.has_begun:
                run.remove()
            raise
        yield session


@contextlib.contextmanager
def session_of_manifest(file: Path, settings: Settings, watcher: Watcher) -> Iterator[Session]:
    """The session of a manifest's file without a run: its ledger is in memory, and no run's folder is made.

    Multiply-accumulates stand for layers' times that a search would measure.
    """
    manifest = without_latencies(read_experiment(file, settings.thesis_target))
    with (
        Ledger(Path(":memory:")) as ledger,
        _session(manifest, None, ledger, dataclasses.replace(settings, manifest=file), watcher) as session,
    ):
        yield session


def services_of_run(run: RunFolder, settings: Settings) -> Services:
    """The services of an existing run, which are started on first use."""
    manifest = run.manifest()
    return from_inventory(manifest, inventory_of(manifest, settings), settings.data, run / "logs", False)


def inventory_of(manifest: Manifest, settings: Settings) -> Inventory:
    """The inventory that says where a manifest's services run. Raises InvalidInput."""
    return load_inventory(settings.inventory, manifest) if settings.inventory else Inventory()


@contextlib.contextmanager
def _session(
    manifest: Manifest, run: RunFolder | None, ledger: Ledger, settings: Settings, watcher: Watcher
) -> Iterator[Session]:
    inventory = inventory_of(manifest, settings)
    shared = SharedStore(settings.store) if settings.store else None
    file = settings.manifest or (run / MANIFEST if run else None)
    with _naming(file):
        if not (settings.allow_code or settings.compressor or inventory.may_allow_code):
            _refuse_own_code(manifest)
        datasets = load_datasets(manifest, settings.data, settings.allow_code, settings.say)
    store = BlobStore(settings.data / "blobs")
    logs = run / "logs" if run else settings.data / "logs"
    with (
        contextlib.closing(_step_cache(settings, shared, store)) as cache,
        from_inventory(manifest, inventory, settings.data, logs, settings.allow_code, settings.compressor) as services,
    ):
        with _naming(file):
            facts = survey(manifest, services, store, datasets, settings.say)
        for note in facts.notes:
            settings.note(f"note: {note}")
        execution = Execution(
            services=services, store=store, ledger=ledger, cache=cache, datasets=datasets, watcher=watcher
        )
        steps_and_cells = plan(
            manifest,
            facts,
            run.name if run else "plan",
            environment.own_versions(),
            build_only=settings.build_only,
            shard=run.shard if run else settings.shard,
        )
        yield Session(manifest=manifest, facts=facts, plan=steps_and_cells, execution=execution, shared=shared)


def _step_cache(settings: Settings, shared: SharedStore | None, blobs: BlobStore) -> StepCache:
    path = settings.data / STEP_CACHE
    return SharedStepCache(path, settings.note, shared, blobs) if shared else StepCache(path, settings.note)


def _refuse_own_code(manifest: Manifest) -> None:
    """Raise InvalidInput, before any service starts, for a model or step in the user's own file."""
    own = [(f"models.{index} ({model.label})", ".py:" in model.model) for index, model in enumerate(manifest.models)]
    own += [
        (f"recipes.{index} ({recipe.label})", any(step.is_own for step in recipe.steps))
        for index, recipe in enumerate(manifest.recipes)
    ]
    if key := next((key for key, is_own in own if is_own), ""):
        raise InvalidInput(f"{key} is your own code: allow it with --allow-code")


@contextlib.contextmanager
def _healed(run: RunFolder, note: Callable[[str], None]) -> Iterator[Ledger]:
    """A run's ledger, to write, after damaged values were removed from it."""
    with run.ledger_to_write() as ledger:
        for what in ledger.discard_damaged():
            note(f"note: {run}: the record of {what} was damaged: it is made again")
        yield ledger


@contextlib.contextmanager
def _naming(file: Path | None) -> Iterator[None]:
    """Put the manifest's file before the message of an InvalidInput."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(f"{file}: {error}" if file else str(error)) from error
