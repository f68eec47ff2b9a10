"""A run's folder: DATA/experiments/NAME, which holds all that a run is; and a search's, which holds its trials too."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pqbench_orchestrator.config.load import load_manifest, read_experiment
from pqbench_orchestrator.config.manifest import Manifest, dump
from pqbench_orchestrator.config.thesis import is_thesis_config
from pqbench_orchestrator.store.ledger import FILE as LEDGER
from pqbench_orchestrator.store.ledger import Ledger
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import InvalidInput
from pqbench_wire.jobs import first_line
from pqbench_wire.process import process_name

EXPERIMENTS = "experiments"  # in the data folder
MANIFEST = "manifest.yaml"
ENVIRONMENT = "environment.json"  # written when the first step is about to begin
LOCK = ".lock"  # names the process that executes the run
TRIALS = "trials.csv"
STUDY = "search.sqlite"  # a search's trials: what tells its folder from a run's
THESIS = "config.ini"  # kept beside the manifest that it stands for
REPORT, CSV, PARQUET = "report.html", "results.csv", "results.parquet"


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
        """The data folder that it lies in, with the blobs of all runs."""
        return self.path.resolve().parent.parent

    def blobs(self, data: Path | None = None) -> BlobStore:
        """The blobs that it refers to; `data`: in another data folder."""
        return BlobStore((data or self.data) / "blobs")

    def ledger(self) -> Ledger:
        """Its ledger, to read. Raises InvalidInput."""
        return Ledger(self / LEDGER, read_only=True)

    def ledger_to_write(self) -> Ledger:
        """Its ledger, to write; made where there is none. Raises InvalidInput for one that lost all it had."""
        ledger = Ledger(self / LEDGER)
        if ledger.is_empty and (self / ENVIRONMENT).is_file():
            ledger.close()
            raise InvalidInput(f"{self / LEDGER} is empty, but the run had begun: restore the file, or begin a new run")
        return ledger

    def manifest(self) -> Manifest:
        """Its manifest. Raises InvalidInput where it is none of a run's."""
        self.require_manifest()
        return load_manifest(self / MANIFEST)

    def require_manifest(self) -> None:
        """Raise InvalidInput for a folder that is not a run's."""
        if not (self / MANIFEST).is_file():
            raise InvalidInput(f"{self}: not a run: it has no {MANIFEST}")

    @property
    def is_search(self) -> bool:
        """Whether it is a search's."""
        return (self / STUDY).is_file()

    @property
    def is_of_thesis(self) -> bool:
        """Whether its experiment is a config.ini of the thesis."""
        return (self / THESIS).is_file()

    @property
    def command_to_continue(self) -> str:
        """What finishes it."""
        return f"pqbench {'search' if self.is_search else 'run'} --continue {self}"

    @property
    def is_running(self) -> bool:
        """Whether the process that its lock names lives."""
        lock = self / LOCK
        name = lock.read_text(errors="replace") if lock.is_file() else ""
        pid = name.partition("-")[0]
        return pid.isdecimal() and process_name(int(pid)) == name

    @property
    def has_begun(self) -> bool:
        """Whether its first step was about to begin."""
        return (self / ENVIRONMENT).is_file()

    @property
    def started(self) -> float:
        """When it was begun, seconds since the epoch."""
        manifest = self / MANIFEST
        return (manifest if manifest.is_file() else self.path).stat().st_mtime

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold it alone. Raises InvalidInput while another process does."""
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
        """Remove it with all that it holds."""
        shutil.rmtree(self.path, ignore_errors=True)

    def write_environment(self, record: dict[str, Any]) -> dict[str, Any]:
        """Write the environment record; that of a continued run keeps its start. Returns what was written."""
        if self.has_begun:
            record = record | {"started": self.environment()["started"], "continued": record["started"]}
        partial = (self / ENVIRONMENT).with_suffix(".partial")
        partial.write_text(json.dumps(record, indent=2, sort_keys=True), encoding="utf-8")
        partial.replace(self / ENVIRONMENT)
        return record

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
                f"{path} is missing or damaged: {first_line(error)}; remove it: run --continue {self} writes it anew"
            ) from error

    def trials(self) -> list[dict[str, str]]:
        """What a search tried cheaply, as its file has it; nothing for a run."""
        if not (self / TRIALS).is_file():
            return []
        try:
            with (self / TRIALS).open(encoding="utf-8", newline="") as file:
                return list(csv.DictReader(file))
        except (csv.Error, ValueError) as error:
            raise InvalidInput(
                f"{self / TRIALS} is damaged: {first_line(error)}; {self.command_to_continue} writes it anew"
            ) from error


def new_folder(data: Path, experiment: Path, manifest: Manifest, search: bool = False) -> RunFolder:
    """Make the folder of a new run, or search, of the manifest that the file `experiment` holds."""
    experiments = data / EXPERIMENTS
    experiments.mkdir(parents=True, exist_ok=True)
    name = f"{'search-' if search else ''}{_slug(manifest.name)}-{time.strftime('%Y%m%d-%H%M%S')}"
    for suffix in ("", *(f"-{n}" for n in range(2, 1000))):
        folder = RunFolder(experiments / (name + suffix))
        with contextlib.suppress(FileExistsError):
            folder.path.mkdir()
            (folder / MANIFEST).write_text(dump(manifest), encoding="utf-8")
            if search:
                (folder / STUDY).touch()
            if is_thesis_config(experiment):
                (folder / THESIS).write_bytes(experiment.read_bytes())
            return folder
    raise InvalidInput(f"{experiments}: no free name for {name}")


def folder_to_continue(data: Path, path: Path, search: bool = False) -> RunFolder:
    """The run, or search, to continue: the folder itself, or the newest of the experiment in the file `path`."""
    if path.is_dir():
        folder = RunFolder(path)
        folder.require_manifest()
        if folder.is_search != search:
            kind = "a search" if folder.is_search else "no search"
            raise InvalidInput(f"{path} is {kind}: {folder.command_to_continue}")
        return folder
    text = dump(read_experiment(path))
    manifests = sorted((data / EXPERIMENTS).glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime)
    for manifest in reversed(manifests):
        folder = RunFolder(manifest.parent)
        if manifest.read_text(encoding="utf-8", errors="replace") == text and folder.is_search == search:
            return folder
    raise InvalidInput(f"{path}: no run of this manifest in {data / EXPERIMENTS}; leave out --continue")


def runs_in(data: Path) -> list[RunFolder]:
    """All runs of a data folder that have a ledger."""
    return [RunFolder(path.parent) for path in (data / EXPERIMENTS).glob(f"*/{LEDGER}")]


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
