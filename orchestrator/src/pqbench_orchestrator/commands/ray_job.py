"""A shard that a machine of a Ray cluster runs: what it is sent, what it does, what it sends back."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pqbench_orchestrator import experiment
from pqbench_orchestrator.config.shard import parse
from pqbench_orchestrator.execution import environment
from pqbench_orchestrator.execution.execute import NullWatcher
from pqbench_orchestrator.execution.session import Settings
from pqbench_orchestrator.execution.shared import SharedStore
from pqbench_orchestrator.planning.plan import Plan
from pqbench_orchestrator.steps.step import Step
from pqbench_orchestrator.store.ledger import StepRecord
from pqbench_orchestrator.store.run_folder import LOCK, RunFolder
from pqbench_wire.errors import InvalidInput, PqbenchError

# Environment variables of a worker: its data folder; the value that its user gave OMP_NUM_THREADS.
FOLDER, THREADS = "PQBENCH_WORKER_DATA", "PQBENCH_WORKER_THREADS"
OMP = "OMP_NUM_THREADS"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A shard, as it is sent to a machine."""

    shard: str
    model: str  # label
    target: str  # name
    device: str  # class of machines that may run it; empty: all
    file: str  # the user's manifest, to be named in messages
    manifest: str  # as YAML
    inventory: str  # as YAML
    allow_code: bool
    store: str  # URL
    ledger: str  # URL of a database for the shard's ledger; empty: a file
    mark: str  # left in the store: a machine that does not find it there refuses
    versions: dict[str, str]  # of pqbench: a machine with others refuses
    data: str  # the data folder of a machine that has none of its own


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a machine sends back."""

    machine: str
    seconds: float
    error: str = ""  # why there is no run
    name: str = ""  # of the run
    archive: bytes = b""  # the run's folder, as tar.gz
    notes: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Progress:
    """How far a shard is."""

    machine: str
    node: str  # Ray's name of the machine
    done: int = 0
    steps: int = 0
    kind: str = ""  # of the step that was started last


class Board:
    """A Ray actor, to which the machines tell how far they are."""

    def __init__(self) -> None:
        self._progress: dict[str, Progress] = {}

    def write(self, shard: str, progress: Progress) -> None:
        """Replace what is known of a shard."""
        self._progress[shard] = progress

    def read(self) -> dict[str, Progress]:
        """What is known of each shard."""
        return self._progress


class _Reporter(NullWatcher):
    """A watcher that reports to the board as steps start and finish; nothing while one is done, as it may measure."""

    def __init__(self, shard: str, board: Any, node: str) -> None:
        self._shard, self._board = shard, board
        self._progress = Progress(machine=socket.gethostname(), node=node)

    def planned(self, plan: Plan) -> None:
        self._progress.steps = len(plan.steps)

    def started(self, step: Step) -> None:
        self._progress.kind = step.kind
        self._board.write.remote(self._shard, self._progress)

    def finished(self, step: Step, record: StepRecord) -> None:
        self._progress.done += 1
        self._board.write.remote(self._shard, self._progress)


def run_job(job: Job, board: Any, node: str) -> Outcome:
    """Run a shard on this machine, `node` in Ray's words, with services of its own; what goes wrong is an outcome."""
    begin, notes = time.monotonic(), list[str]()
    reporter = _Reporter(job.shard, board, node)
    try:
        with _threads_of_the_worker():
            run = _run(job, reporter, notes)
        found: dict[str, Any] = {"name": run.name, "archive": _packed(run)}
    except (PqbenchError, OSError) as error:
        found = {"error": str(error)}
    seconds = time.monotonic() - begin
    return Outcome(machine=socket.gethostname(), seconds=seconds, notes=tuple(notes), **found)


def _run(job: Job, reporter: _Reporter, notes: list[str]) -> RunFolder:
    if (own := environment.own_versions()) != job.versions:
        raise InvalidInput(f"this machine has another pqbench ({own}, not {job.versions}): install the same one")
    if not SharedStore(job.store).has_mark(job.mark):
        raise InvalidInput(f"the store {job.store} is not shared: here it is another one; name one with --store")
    with tempfile.TemporaryDirectory(prefix="pqbench-") as folder:
        manifest, inventory = Path(folder) / "manifest.yaml", Path(folder) / "inventory.yaml"
        manifest.write_text(job.manifest, encoding="utf-8")
        inventory.write_text(job.inventory, encoding="utf-8")
        settings = Settings(
            data=Path(os.environ.get(FOLDER, job.data)),
            inventory=inventory if job.inventory else None,
            allow_code=job.allow_code,
            note=notes.append,
            manifest=Path(job.file),
            is_new=True,
            shard=parse(job.shard),
            store=job.store,
            ledger=job.ledger,
        )
        run = experiment.new_run(manifest, settings)
        experiment.execute(run, settings, reporter, reporter.planned)
    return run


@contextlib.contextmanager
def _threads_of_the_worker() -> Iterator[None]:
    """The number of threads that the worker's user chose, if any: Ray sets it to one, which would change results."""
    of_ray = os.environ.pop(OMP, None)
    if chosen := os.environ.get(THREADS):
        os.environ[OMP] = chosen
    try:
        yield
    finally:
        os.environ.pop(OMP, None)
        if of_ray is not None:
            os.environ[OMP] = of_ray


def _packed(run: RunFolder) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path in sorted(run.path.iterdir()):
            if path.name != LOCK:  # of the process here
                archive.add(path, arcname=f"{run.name}/{path.name}")
    return packed.getvalue()
