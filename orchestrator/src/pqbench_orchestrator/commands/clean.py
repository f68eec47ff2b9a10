"""`pqbench clean`: counts or removes what a data folder keeps that no run needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pqbench_orchestrator.steps.step import blobs_of_run
from pqbench_orchestrator.store.run_folder import runs_in
from pqbench_orchestrator.store.step_cache import FILE as STEP_CACHE
from pqbench_wire.errors import InvalidInput
from pqbench_wire.shared.locks import machine_lock

CACHES = ("results", "training", "trt_caches", "engines")  # folders of services; made again when they are needed


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """What was removed, or would be removed."""

    files: int
    size: int  # bytes
    kept: int  # bytes of blobs that runs refer to


def clean(data: Path, remove: bool) -> Cleaned:
    """Find, and with `remove` delete, services' results and caches, the step cache, and blobs that no run refers to.

    Raises InvalidInput where `data` is no data folder, while a run is being executed or (with `remove`) one of the
    user's services works, and where a ledger cannot be read, because its blobs are not known then.
    """
    if not (data / "blobs").is_dir():
        raise InvalidInput(f"{data}: not a data folder of pqbench: it has no folder 'blobs'; name one with --data")
    if busy := [run for run in runs_in(data) if run.is_running]:
        raise InvalidInput(f"{busy[0]} is being executed: wait until it has ended")
    needed = {blob.sha256 for run in runs_in(data) for blob in blobs_of_run(run)}
    waste: list[Path] = []
    kept = 0
    waste += [path for path in (data / "blobs").glob(".partial-*") if path.is_file()]
    for path in (data / "blobs").glob("*/*"):
        if path.name in needed:
            kept += path.stat().st_size
        else:
            waste.append(path)
    waste += [path for name in CACHES for path in (data / name).rglob("*") if path.is_file()]
    waste += [path for path in data.glob(f"{STEP_CACHE}*") if path.is_file()]
    size = sum(path.stat().st_size for path in waste)
    if remove:
        with machine_lock(None, exclusive=True, waiting=_busy):  # while no service works
            for path in waste:
                path.unlink(missing_ok=True)
    return Cleaned(files=len(waste), size=size, kept=kept)


def _busy(reason: str) -> None:
    raise InvalidInput(f"one of your services is busy: {reason}; clean again when it has finished")
