"""The folder of a run, DATA/experiments/NAME, and the files in it; the folder of a search also has its trials."""

from __future__ import annotations

import contextlib
import csv
import difflib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pqbench_orchestrator.config.latencies import with_latencies
from pqbench_orchestrator.config.load import load_manifest, read_experiment
from pqbench_orchestrator.config.manifest import Manifest, dump
from pqbench_orchestrator.config.shard import WHOLE, Shard, parse
from pqbench_orchestrator.config.thesis import ON_CPU, ThesisTarget, is_thesis_config
from pqbench_orchestrator.store import postgres
from pqbench_orchestrator.store.ledger import FILE as LEDGER
from pqbench_orchestrator.store.ledger import Ledger
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import InvalidInput, first_line
from pqbench_wire.process import process_name

EXPERIMENTS = "experiments"  # in the data folder
MANIFEST = "manifest.yaml"
ENVIRONMENT = "environment.json"  # written before the first step begins
MATERIALS = "materials"  # the folder of the bills of materials that the environment record names
LEDGER_URL = "ledger.url"  # the database that has the ledger, and the run's name there; only in such a run's folder
LATENCIES = "latencies.json"  # the time of each layer, of a search that measured it before its first trial
LOCK = ".lock"  # names the process that executes the run
TRIALS = "trials.csv"
SHARD = "shard"  # which shard of its experiment the run is; only the folder of a shard has this file
MERGED = "merged"  # the names of the runs that this one was merged from; only the folder of such a run has this file
BUILD = "build"  # an empty file: this folder is that of a build
STUDY = "search.sqlite"  # Optuna's record of a search's trials; only the folder of a search has this file
THESIS = "config.ini"  # kept beside the manifest that it stands for
LATEST = "latest"  # the newest run, in place of its name
REPORT, CSV, PARQUET = "report.html", "results.csv", "results.parquet"


def material_file(bill: bytes) -> str:
    """A bill's file in a run's folder, named by its SHA-256."""
    return f"{MATERIALS}/{hashlib.sha256(bill).hexdigest()}.cdx.json"


@dataclass(frozen=True)
class RunFolder:
    """The folder at `path`, of a run or a search."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def data(self) -> Path:
        """The data folder that the run lies in, which has the blobs of all its runs."""
        return self.path.resolve().parent.parent

    def blobs(self, data: Path | None = None) -> BlobStore:
        """The store with the run's blobs: that of its own data folder, or of `data`."""
        return BlobStore((data or self.data) / "blobs")

    def ledger(self) -> Ledger:
        """The run's ledger, to read. Raises InvalidInput where it is missing or damaged."""
        return Ledger(self.ledger_place, read_only=True)

    def ledger_to_write(self) -> Ledger:
        """The run's ledger, to write, made if it is missing. Raises InvalidInput for one that has lost its content."""
        ledger = Ledger(self.ledger_place)
        if ledger.is_empty and (self / ENVIRONMENT).is_file():
            ledger.close()
            raise InvalidInput(f"{self.ledger_place} is empty, but the run had begun: restore it, or begin a new run")
        return ledger

    @property
    def ledger_place(self) -> Path | postgres.Address:
        """The ledger's file, or where it is in a database."""
        if not (self / LEDGER_URL).is_file():
            return self / LEDGER
        try:
            url, name = (self / LEDGER_URL).read_text().split()
        except ValueError as error:
            raise InvalidInput(f"{self / LEDGER_URL} is damaged: it has a URL and the run's name") from error
        return postgres.Address(url, name)

    @property
    def has_ledger(self) -> bool:
        """Whether it is the folder of a run: it has a ledger, or says where that is."""
        return (self / LEDGER).is_file() or (self / LEDGER_URL).is_file()

    def _begin_ledger(self, url: str) -> None:
        try:
            postgres.create(postgres.Address(url, self.name))
        except InvalidInput:
            self.path.rmdir()
            raise
        (self / LEDGER_URL).write_text(f"{url}\n{self.name}\n")

    def manifest(self) -> Manifest:
        """The run's manifest, with the layers' times that a search measured. Raises InvalidInput for a wrong one."""
        manifest = self.written_manifest()
        if not (self / LATENCIES).is_file():
            return manifest
        try:
            found = json.loads((self / LATENCIES).read_text(encoding="utf-8"))
            return with_latencies(manifest, {name: one["latencies"] for name, one in found.items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(
                f"{self / LATENCIES} is damaged: {first_line(error)}; remove it, and {self.command_to_continue} "
                "measures again"
            ) from error

    def written_manifest(self) -> Manifest:
        """The run's manifest as its user wrote it. Raises InvalidInput."""
        self.require_manifest()
        return load_manifest(self / MANIFEST)

    def write_latencies(self, record: dict[str, Any]) -> None:
        """Write the layers' times that a search measured, by the definition of the quantization."""
        self._write(LATENCIES, json.dumps(record, indent=1))

    def _write(self, name: str, text: str) -> None:
        """Write a file, which appears whole or not at all."""
        partial = (self / name).with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(self / name)

    def require_manifest(self) -> None:
        """Raise InvalidInput for a folder without a manifest, which is not a run's."""
        if not (self / MANIFEST).is_file():
            raise InvalidInput(f"{self}: not a run: it has no {MANIFEST}")

    @property
    def is_search(self) -> bool:
        """Whether this is the folder of a search."""
        return (self / STUDY).is_file()

    @property
    def is_build(self) -> bool:
        """Whether this is the folder of a build, which stops after the engines."""
        return (self / BUILD).is_file()

    @property
    def shard(self) -> Shard:
        """Which shard of its experiment the run is. Raises InvalidInput where the file that says so is damaged."""
        path = self / SHARD
        if not path.is_file():
            return WHOLE
        try:
            return parse(path.read_text(encoding="utf-8", errors="replace").strip())
        except InvalidInput as error:
            raise InvalidInput(f"{path} is damaged: {error}") from error

    @property
    def is_merged(self) -> bool:
        """Whether the run was merged from others: it has no machine of its own to go on."""
        return (self / MERGED).is_file()

    @property
    def is_of_thesis(self) -> bool:
        """Whether the run's experiment came from a config.ini of the thesis."""
        return (self / THESIS).is_file()

    @property
    def command_to_continue(self) -> str:
        """The command that finishes the run or search."""
        return f"pqbench {'search' if self.is_search else 'run'} --continue {self}"

    @property
    def is_running(self) -> bool:
        """Whether the process that the lock file names still lives."""
        lock = self / LOCK
        name = lock.read_text(errors="replace") if lock.is_file() else ""
        pid = name.partition("-")[0]
        return pid.isdecimal() and process_name(int(pid)) == name

    @property
    def has_begun(self) -> bool:
        """Whether the run got as far as its first step: its environment record exists."""
        return (self / ENVIRONMENT).is_file()

    @property
    def started(self) -> float:
        """When the run was begun, in seconds since the epoch: the time of its manifest."""
        manifest = self / MANIFEST
        return (manifest if manifest.is_file() else self.path).stat().st_mtime

    @property
    def started_at(self) -> str:
        """The same as local time in ISO 8601."""
        return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(self.started))

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Lock the folder for this process. Raises InvalidInput while another process holds the lock."""
        with (self / LOCK).open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InvalidInput(f"{self}: this run is being executed by another process") from None
            file.truncate(0)
            file.write(process_name(os.getpid()))
            file.flush()
            yield

    def remove(self) -> None:
        """Remove the folder with everything in it, and its ledger where that is in a database."""
        with contextlib.suppress(InvalidInput):  # a database that is away keeps what it has
            if isinstance(self.ledger_place, postgres.Address):
                postgres.drop(self.ledger_place)
        shutil.rmtree(self.path, ignore_errors=True)

    def write_environment(self, record: dict[str, Any]) -> dict[str, Any]:
        """Write the environment record and return it; a continued run keeps the time at which it was started."""
        if self.has_begun:
            record = record | {"started": self.environment()["started"], "continued": record["started"]}
        self._write(ENVIRONMENT, json.dumps(record, indent=2, sort_keys=True))
        return record

    def write_materials(self, bills: Iterable[bytes]) -> None:
        """Write the bills of materials that the environment record names."""
        (self / MATERIALS).mkdir(exist_ok=True)
        for bill in bills:
            (self / material_file(bill)).write_bytes(bill)

    def materials(self) -> list[bytes]:
        """The bills of materials; runs of old versions have none."""
        return [file.read_bytes() for file in sorted((self / MATERIALS).glob("*.json"))]

    def environment(self) -> dict[str, Any]:
        """The environment record. Raises InvalidInput where it is missing or damaged."""
        path = self / ENVIRONMENT
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if not all(isinstance(target["versions"], dict) for target in found["targets"].values()):
                raise ValueError("a target has no versions")
            return found | {"started": str(found["started"])}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(
                f"{path} is missing or damaged: {first_line(error)}; remove it, and "
                f"{self.command_to_continue} writes it again"
            ) from error

    def trials(self) -> list[dict[str, str]]:
        """The cheap trials of a search, a mapping by column each; empty for a run. Raises InvalidInput."""
        if not (self / TRIALS).is_file():
            return []
        try:
            with (self / TRIALS).open(encoding="utf-8", newline="") as file:
                return list(csv.DictReader(file))
        except (csv.Error, ValueError) as error:
            raise InvalidInput(
                f"{self / TRIALS} is damaged: {first_line(error)}; {self.command_to_continue} writes it again"
            ) from error


def find_run(reference: str, data: Path) -> RunFolder:
    """The run that RUN names: a folder, or one of the data folder's by its name, a unique beginning of it, or `latest`.

    Raises InvalidInput where there is no such run, or more than one.
    """
    runs = runs_in(data)
    is_name = reference == LATEST or any(run.name == reference for run in runs)
    if reference and Path(reference).is_dir() and not is_name:
        return RunFolder(Path(reference))
    if reference == LATEST and runs:
        return runs[-1]
    named = [run for run in runs if run.name == reference] or [run for run in runs if run.name.startswith(reference)]
    if not named or not reference:
        near = difflib.get_close_matches(reference, [run.name for run in runs], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; it has {len(runs)} runs: pqbench serve lists them"
        raise InvalidInput(f"there is no folder {reference!r} and no run of that name in {data / EXPERIMENTS}{hint}")
    if len(named) > 1:
        raise InvalidInput(f"{len(named)} runs begin with {reference!r}: {', '.join(run.name for run in named)}")
    return named[0]


def new_folder(
    data: Path,
    experiment: Path,
    manifest: Manifest,
    search: bool = False,
    build: bool = False,
    shard: Shard = WHOLE,
    ledger: str = "",
) -> RunFolder:
    """Make the folder of a new run, search or build for a manifest that was read from the file `experiment`.

    `ledger`: URL of a database for the ledger. Raises InvalidInput where it has a run of this name.
    """
    experiments = data / EXPERIMENTS
    experiments.mkdir(parents=True, exist_ok=True)
    kind = "search-" if search else "build-" if build else ""
    part = "" if shard == WHOLE else f"-{shard.index}of{shard.count}"
    name = f"{kind}{_slug(manifest.name)}-{time.strftime('%Y%m%d-%H%M%S')}{part}"
    for suffix in ("", *(f"-{n}" for n in range(2, 1000))):
        folder = RunFolder(experiments / (name + suffix))
        with contextlib.suppress(FileExistsError):
            folder.path.mkdir()
            if ledger:
                folder._begin_ledger(ledger)
            (folder / MANIFEST).write_text(dump(manifest), encoding="utf-8")
            if search:
                (folder / STUDY).touch()
            if build:
                (folder / BUILD).touch()
            if shard != WHOLE:
                (folder / SHARD).write_text(f"{shard}\n")
            if is_thesis_config(experiment):
                (folder / THESIS).write_bytes(experiment.read_bytes())
            return folder
    raise InvalidInput(f"{experiments}: no free name for {name}")


def folder_to_continue(
    data: Path, path: Path, search: bool = False, thesis_target: ThesisTarget = ON_CPU, shard: Shard = WHOLE
) -> RunFolder:
    """The run, or search, to continue: the folder `path`, or the newest one of the manifest in the file `path`.

    The newest one is that of the whole experiment or, where it is given, of a shard. Raises InvalidInput where there is
    none, or where a folder is of another kind.
    """
    if path.is_dir():
        folder = RunFolder(path)
        folder.require_manifest()
        if folder.is_search != search:
            kind = "a search" if folder.is_search else "a run, not a search"
            raise InvalidInput(f"{path} is {kind}: {folder.command_to_continue}")
        if folder.is_merged:
            others = ", ".join((folder / MERGED).read_text().split())
            raise InvalidInput(f"{path} was merged from {others}: continue these where they ran, and merge them again")
        if shard not in (WHOLE, folder.shard):
            raise InvalidInput(f"{path} is shard {folder.shard}, not {shard}: leave out --shard to continue it")
        return folder
    text = dump(read_experiment(path, thesis_target))
    manifests = sorted((data / EXPERIMENTS).glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime)
    for manifest in reversed(manifests):
        folder = RunFolder(manifest.parent)
        is_same = manifest.read_text(encoding="utf-8", errors="replace") == text and folder.shard == shard
        if is_same and folder.is_search == search and not folder.is_build and not folder.is_merged:
            return folder
    what = "run of this manifest" + ("" if shard == WHOLE else f" as shard {shard}")
    raise InvalidInput(f"{path}: no {what} in {data / EXPERIMENTS}; leave out --continue to start one")


def runs_in(data: Path) -> list[RunFolder]:
    """The runs, searches and builds of a data folder, the newest last."""
    return runs_below(data / EXPERIMENTS)


def runs_below(experiments: Path) -> list[RunFolder]:
    """The folders in a folder that have a ledger, the newest last."""
    runs = [run for path in experiments.glob("*/") if (run := RunFolder(path)).has_ledger]
    return sorted(runs, key=lambda run: (run.started, run.name))


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
