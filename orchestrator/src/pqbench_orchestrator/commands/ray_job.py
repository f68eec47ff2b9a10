"""A shard that a machine of a Ray cluster runs: what it is sent, what it does, what it sends back."""

from __future__ import annotations

import io
import os
import socket
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pqbench_orchestrator import experiment
from pqbench_orchestrator.config.shard import parse
from pqbench_orchestrator.execution import environment
from pqbench_orchestrator.execution.execute import NullWatcher
from pqbench_orchestrator.execution.session import Settings
from pqbench_orchestrator.planning.plan import Plan
from pqbench_orchestrator.steps.step import Step
from pqbench_orchestrator.store.ledger import StepRecord
from pqbench_orchestrator.store.run_folder import LOCK, RunFolder
from pqbench_wire.errors import InvalidInput, PqbenchError

FOLDER = "PQBENCH_WORKER_DATA"  # environment variable of a worker: its data folder


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

    def __init__(self, shard: str, board: Any) -> None:
        self._shard, self._board = shard, board
        self._progress = Progress(machine=socket.gethostname())

    def planned(self, plan: Plan) -> None:
        self._progress.steps = len(plan.steps)

    def started(self, step: Step) -> None:
        self._progress.kind = step.kind
        self._board.write.remote(self._shard, self._progress)

    def finished(self, step: Step, record: StepRecord) -> None:
        self._progress.done += 1
        self._board.write.remote(self._shard, self._progress)


def run_job(job: Job, board: Any) -> Outcome:
    """The Ray task: run a shard on this machine, with services of its own."""
    begin, machine = time.monotonic(), socket.gethostname()
    os.environ.pop("OMP_NUM_THREADS", None)  # Ray sets it to one thread, which would change what is measured
    notes: list[str] = []
    reporter = _Reporter(job.shard, board)
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
        )
        try:
            _check_version(job)
            run = experiment.new_run(manifest, settings)
            experiment.execute(run, settings, reporter, reporter.planned)
        except (PqbenchError, OSError) as error:
            return Outcome(machine=machine, seconds=time.monotonic() - begin, error=str(error), notes=tuple(notes))
    return Outcome(
        machine=machine,
        seconds=time.monotonic() - begin,
        name=run.name,
        archive=_packed(run),
        notes=tuple(notes),
    )


def _check_version(job: Job) -> None:
    if (own := environment.own_versions()) != job.versions:
        raise InvalidInput(f"this machine has another pqbench ({own}, not {job.versions}): install the same one")


def _packed(run: RunFolder) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path in sorted(run.path.iterdir()):
            if path.name != LOCK:  # of the process here
                archive.add(path, arcname=f"{run.name}/{path.name}")
    return packed.getvalue()
