"""`pqbench run --on`: the shards of an experiment on the machines of a Ray cluster, then one run of all of them.

A shard is a pair of a model and a target. One machine runs it, which does nothing else meanwhile, with its services
started there: no network is inside a timing. What was finished on a machine that was lost is found in the shared store;
what was measured there is measured anew, because a variant and its baseline belong to one session of one machine.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import tarfile
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pqbench_orchestrator import experiment
from pqbench_orchestrator.commands.merge import merge
from pqbench_orchestrator.commands.ray_address import LOCAL_RAY, no_cluster, require_answer
from pqbench_orchestrator.commands.ray_job import FOLDER, OMP, THREADS, Board, Job, Outcome, Progress, run_job
from pqbench_orchestrator.config.inventory import Inventory
from pqbench_orchestrator.config.latencies import check_for_run
from pqbench_orchestrator.config.load import read_experiment
from pqbench_orchestrator.config.manifest import Manifest, dump
from pqbench_orchestrator.config.shard import Shard, parse
from pqbench_orchestrator.config.thesis import is_thesis_config
from pqbench_orchestrator.execution import environment
from pqbench_orchestrator.execution.session import Settings, inventory_of
from pqbench_orchestrator.execution.shared import SharedStore
from pqbench_orchestrator.output.outputs import cells_of
from pqbench_orchestrator.results.cell import CellResult
from pqbench_orchestrator.steps.step import blobs_of_run
from pqbench_orchestrator.store import postgres
from pqbench_orchestrator.store.run_folder import CSV, EXPERIMENTS, RunFolder, folder_to_continue
from pqbench_wire.errors import BlobCorrupt, Failed, InvalidInput, PqbenchError, Unavailable, first_line

MACHINE = "pqbench"  # a resource of which every machine has one: it runs one shard at a time
CLASS = "pqbench-{}"  # a resource of machines with a device of a class; Ray has names of its own, such as CPU
HEAD = "node:__internal_head__"  # a resource of the cluster's head alone
SHARE = 0.001  # of a resource, which tells only that the machine has it
LOST = 10  # times that a shard is begun anew after its process or machine was lost
POLL = 1.0  # seconds
NEEDS_RAY = "a Ray cluster needs Ray: pip install 'pqbench-orchestrator[ray]'"
OBJECT_STORE = 100_000_000  # bytes that Ray keeps in memory on a machine; what is sent is a run's folder
# What Ray does to the processes of its tasks would change what is measured in them, or which is ended first when memory
# is short: it hides the GPUs, makes them give way to all others, and ends them.
RAY_ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",
    "RAY_worker_oom_score_adjustment": "0",
    "RAY_memory_monitor_refresh_ms": "0",
}
AUTH = "RAY_AUTH_MODE"  # Ray's environment variable
UNFINISHED = ("failed", "unavailable")  # outcomes of cells
COMPRESSING = ("prepare", "compress")  # kinds of steps that targets of one model share


def run_on(address: str, file: Path, settings: Settings, again: bool) -> tuple[RunFolder, list[CellResult]]:
    """Run an experiment on a cluster; returns the run that its shards were merged to, and the cells.

    With `again`, shards of this manifest that are complete are kept. Raises InvalidInput for a manifest or cluster that
    does not fit, Unavailable where the cluster cannot be reached, and Failed where a shard could not be run; shards
    that were are kept.
    """
    if is_thesis_config(file):
        raise InvalidInput(f"{file}: --on takes a manifest: pqbench init --from {file} writes one")
    manifest = read_experiment(file)
    check_for_run(manifest)
    inventory = inventory_of(manifest, settings)
    _refuse_endpoints(inventory)
    if settings.ledger:
        postgres.check(settings.ledger)
    store = SharedStore(settings.store or (settings.data / "store").resolve().as_uri())
    jobs = _jobs(file, manifest, inventory, settings, store)
    runs = {job.shard: run for job in jobs if again and (run := _complete(file, settings, job, store)) is not None}
    for shard, run in runs.items():
        settings.note(f"shard {shard}: kept from {run}")
    if left := [job for job in jobs if job.shard not in runs]:
        # Ray prints what it notices, such as a lost machine, on standard output, which is the answer's.
        with contextlib.redirect_stdout(sys.stderr), _cluster(address) as ray:
            check_devices(ray, left)
            with _marked(store, left[0].mark):
                runs |= _Driver(ray, settings, store).run(left)
    if len(jobs) == 1:
        (run,) = runs.values()
        return run, experiment.report_again(run)[1]
    try:
        return merge([runs[job.shard] for job in jobs], settings.data)
    except InvalidInput as error:
        raise InvalidInput(
            f"{error}; remove the folder of the run to be measured again, then use --continue"
        ) from error


@contextlib.contextmanager
def _marked(store: SharedStore, mark: str) -> Iterator[None]:
    store.mark(mark)
    try:
        yield
    finally:
        with contextlib.suppress(Unavailable):  # a mark that stays harms nothing
            store.remove_mark(mark)


def join(address: str, devices: Sequence[str], data: Path) -> NoReturn:
    """Become a worker of the cluster at `address`: Ray replaces this process. Raises InvalidInput and Unavailable."""
    _ray()
    require_answer("--join", address)
    data.mkdir(parents=True, exist_ok=True)
    resources = json.dumps({MACHINE: 1} | {CLASS.format(device): 1 for device in devices})
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--address", address, "--block", "--resources",
               resources, "--object-store-memory", str(OBJECT_STORE)]  # fmt: skip
    own = {FOLDER: str(data.resolve()), THREADS: os.environ.get(OMP, "")}
    os.execve(sys.executable, command, os.environ | _environment() | own)  # noqa: S606


def _environment() -> dict[str, str]:
    """What Ray is started with: with a token, as a head is, where this machine has one and its user says nothing."""
    has_token = (Path.home() / ".ray/auth_token").is_file()
    return RAY_ENVIRONMENT | ({AUTH: "token"} if has_token and AUTH not in os.environ else {})


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise InvalidInput(NEEDS_RAY) from None
    return ray


def _refuse_endpoints(inventory: Inventory) -> None:
    places = [inventory.compressor, *inventory.compressors.values(), *inventory.targets.values()]
    if any(place.endpoint is not None for place in (*places, *inventory.backends.values())):
        raise InvalidInput(
            "--on starts services on each machine that measures: the inventory must not have an endpoint"
        )


def _jobs(file: Path, manifest: Manifest, inventory: Inventory, settings: Settings, store: SharedStore) -> list[Job]:
    common: dict[str, Any] = {
        "file": str(file),
        "manifest": dump(manifest),
        "inventory": settings.inventory.read_text(encoding="utf-8") if settings.inventory else "",
        "allow_code": settings.allow_code,
        "store": store.url,
        "ledger": settings.ledger,
        "mark": uuid.uuid4().hex,
        "versions": environment.own_versions(),
        "data": str((settings.data / "worker").resolve()),
    }
    count = len(manifest.models) * len(manifest.targets)
    jobs = []
    for index in range(1, count + 1):
        shard = Shard(index=index, count=count)
        ((model, target),) = shard.pairs(manifest)
        device = inventory.devices.get(target, "")
        jobs.append(Job(shard=str(shard), model=model, target=target, device=device, **common))
    return jobs


def _complete(file: Path, settings: Settings, job: Job, store: SharedStore) -> RunFolder | None:
    """The newest run of a shard, from an earlier call, if no cell of it failed; its blobs are here, or come now."""
    try:
        run = folder_to_continue(settings.data, file, shard=parse(job.shard))
    except InvalidInput:
        return None
    if run.is_running or not (run / CSV).is_file():
        return None
    try:
        if any(cell.outcome in UNFINISHED for cell in cells_of(run)):
            return None
        store.pull(blobs_of_run(run), run.blobs())
    except (InvalidInput, BlobCorrupt) as error:
        settings.note(f"shard {job.shard}: {run} is not kept: {error}")
        return None
    return run


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """Ray, connected to the cluster at an address, or to one of this machine alone. Raises Unavailable."""
    os.environ |= _environment()  # Ray reads it when it is imported
    ray = _ray()
    options: dict[str, Any] = {"address": address}
    if address == LOCAL_RAY:
        os.environ[THREADS] = os.environ.get(OMP, "")
        options = {"address": "local", "resources": {MACHINE: 1}, "object_store_memory": OBJECT_STORE,
                   "include_dashboard": False}  # fmt: skip
    if address != LOCAL_RAY:
        require_answer("--on", address)
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # of many kinds, also of gRPC
        raise no_cluster("--on", address, error) from error
    finally:
        signal.signal(signal.SIGTERM, terminated)  # Ray's would end this process without a word
    try:
        yield ray
    finally:
        ray.shutdown()


def check_devices(ray: Any, jobs: Sequence[Job]) -> None:
    """Raise InvalidInput for a job that no machine of the cluster may run: it would wait for ever."""
    machines = _alive(ray).values()
    if not machines:
        raise InvalidInput("the cluster has no worker: pqbench worker --join ADDRESS, on each machine that measures")
    for job in jobs:
        if job.device and not any(CLASS.format(job.device) in resources for resources in machines):
            raise InvalidInput(
                f"target {job.target} needs a machine of class {job.device}, which the cluster does not have: "
                f"pqbench worker --join ADDRESS --device {job.device}"
            )


def _alive(ray: Any) -> dict[str, dict[str, float]]:
    """The resources of each worker of the cluster, by Ray's name of it."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return {node["NodeID"]: node["Resources"] for node in nodes if MACHINE in node["Resources"]}


def _task(job: Job, board: Any) -> Outcome:
    """What Ray runs on a machine."""
    return run_job(job, board, _ray().get_runtime_context().get_node_id())


class _Driver:
    """Gives the jobs to the machines and gathers their runs."""

    def __init__(self, ray: Any, settings: Settings, store: SharedStore) -> None:
        self._ray, self._settings, self._store = ray, settings, store
        self._begun: dict[tuple[str, str], float] = {}  # by shard and machine, in time.monotonic
        self._missing = ""  # what the cluster lacks by now
        self._board = ray.remote(num_cpus=0, max_restarts=-1, resources={HEAD: SHARE})(Board).remote()
        self._task = ray.remote(num_cpus=0, max_retries=LOST, max_calls=1)(_task)

    def run(self, jobs: Sequence[Job]) -> dict[str, RunFolder]:
        """The run of each job, by shard. Raises Failed with all that could not be run."""
        waiting, running = list(jobs), dict[Any, Job]()
        runs: dict[str, RunFolder] = {}
        errors: list[str] = []
        progress: Mapping[str, Progress] = {}
        while waiting or running:
            for job in startable(waiting, list(running.values()), progress):
                waiting.remove(job)
                running[self._submit(job)] = job
            ended, _ = self._ray.wait(list(running), timeout=POLL)
            progress = self._progress(progress)
            self._warn_of_missing(list(running.values()))
            for one in ended:
                job = running.pop(one)
                try:
                    runs[job.shard] = self._received(job, one)
                except PqbenchError as error:
                    errors.append(f"shard {job.shard} ({job.model} on {job.target}): {error}")
                    self._settings.note(errors[-1])
            self._settings.say(f"{len(runs)} of {len(jobs)} shards done{self._where(running.values(), progress)}")
        if errors:
            raise Failed(
                f"{len(errors)} of {len(jobs)} shards have no complete run here, the others are kept: mend them, "
                f"then use the same command with --continue; the first: {errors[0]}"
            )
        return runs

    def _submit(self, job: Job) -> Any:
        resources = {MACHINE: 1.0} | ({CLASS.format(job.device): SHARE} if job.device else {})
        return self._task.options(resources=resources).remote(job, self._board)

    def _progress(self, before: Mapping[str, Progress]) -> Mapping[str, Progress]:
        try:
            found: Mapping[str, Progress] = self._ray.get(self._board.read.remote(), timeout=10)
        except self._ray.exceptions.RayError:  # it starts again, empty
            found = {}
        machines = _alive(self._ray)
        return {shard: one for shard, one in {**before, **found}.items() if one.node in machines}

    def _warn_of_missing(self, jobs: Sequence[Job]) -> None:
        """Note, once, that a machine was lost without which a job waits for ever."""
        try:
            check_devices(self._ray, jobs)
            missing = ""
        except InvalidInput as error:
            missing = str(error)
        if missing and missing != self._missing:
            self._settings.note(f"waiting: {missing}")
        self._missing = missing

    def _where(self, running: Iterable[Job], progress: Mapping[str, Progress]) -> str:
        """What the machines are doing, and for how long: stragglers are seen."""
        text = ""
        for job in running:
            if (one := progress.get(job.shard)) is None:
                text += f"; {job.shard} waits for a machine"
                continue
            now = time.monotonic()
            seconds = now - self._begun.setdefault((job.shard, one.node), now)
            text += f"; {job.shard} on {one.machine}: step {one.done} of {one.steps}, {one.kind}, {seconds:.0f} s"
        return text

    def _received(self, job: Job, reference: Any) -> RunFolder:
        try:
            outcome: Outcome = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise Failed(f"{type(error.cause).__name__}: {first_line(error.cause)}") from error
        except self._ray.exceptions.RayError as error:
            raise Failed(first_line(error)) from error
        for note in outcome.notes:
            self._settings.note(f"shard {job.shard} on {outcome.machine}: {note}")
        if outcome.error:
            raise Failed(f"on {outcome.machine}: {outcome.error}")
        run = _unpacked(outcome, self._settings.data)
        self._store.pull(blobs_of_run(run), run.blobs())
        self._settings.note(
            f"shard {job.shard}: {job.model} on {job.target}, by {outcome.machine} in {outcome.seconds:.0f} s"
        )
        return run


def startable(waiting: Sequence[Job], running: Sequence[Job], progress: Mapping[str, Progress]) -> list[Job]:
    """The jobs that may start: of each model one, and the others once that one has compressed what they share."""
    compressing = {
        job.model for job in running if job.shard not in progress or progress[job.shard].kind in (*COMPRESSING, "")
    }
    found = []
    for job in waiting:
        if job.model not in compressing:
            found.append(job)
            if not any(other.model == job.model for other in running):
                compressing.add(job.model)
    return found


def _unpacked(outcome: Outcome, data: Path) -> RunFolder:
    """The run of an outcome, in the data folder."""
    experiments = data / EXPERIMENTS
    experiments.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=experiments, prefix=".received-") as folder,
        tarfile.open(fileobj=io.BytesIO(outcome.archive)) as archive,
    ):
        archive.extractall(folder, filter="data")
        free = (experiments / f"{outcome.name}{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 1000))))
        place = next(path for path in free if not path.exists())
        (Path(folder) / outcome.name).rename(place)
    return RunFolder(place)
