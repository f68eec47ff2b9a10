"""samples.parquet: every timed call of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np

from pqbench_orchestrator.store.ledger import Ledger
from pqbench_orchestrator.store.run_folder import RunFolder
from pqbench_wire.blobs import blob_of
from pqbench_wire.errors import InvalidInput, first_line

FILE = "samples.parquet"  # in the run's folder
ADVICE = "pqbench run --continue {run} writes it again"
ROLES = ("variant", "baseline")  # of the engines of one measurement, in order; a cell's own engine is the "variant"
COLUMNS = ("block", "start", "latency", "compute", "h2d", "d2h")  # the last three only where the device times itself


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The samples of one measurement: arrays "latency_0" (of the first engine), "block_0" and so on."""

    cell: str  # its key
    build: int  # 0 for the first build, from 1 for replicates
    arrays: Mapping[str, np.ndarray]


def write_samples(measured: Iterable[Measured], run: Path, ledger: Ledger) -> None:
    """Write cell, build, role (variant or baseline), block, start, latency, compute, h2d and d2h of every timed call.

    Times are in seconds, and null where a call has none. Where nothing was timed, no file is written. The file's digest
    is recorded in the ledger.
    """
    parts = [part for one in measured for part in _parts(one)]
    if parts:
        names = dict.fromkeys(name for part in parts for name in part)
        write_parquet({name: np.concatenate([_filled(part, name) for part in parts]) for name in names}, run / FILE)
    ledger.record_samples(_digest(run))


def merge_samples(runs: Sequence[Path], folder: Path, ledger: Ledger) -> None:
    """Write the calls of several runs into one file, whose digest is recorded. Raises InvalidInput as `calls_of`."""
    for run in runs:
        with calls_of(run):  # their digests are right
            pass
    files = [str(run / FILE) for run in runs if (run / FILE).is_file()]
    if files:
        partial = (folder / FILE).with_suffix(".partial")
        with duckdb.connect() as connection:
            connection.read_parquet(files, union_by_name=True).write_parquet(str(partial), compression="zstd")
        partial.replace(folder / FILE)
    ledger.record_samples(_digest(folder))


@contextmanager
def calls_of(run: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB connection with the relation `calls`: cell, role, block, start, latency of each call, times in seconds.

    It has the calls of first builds, not of replicates, and is empty where nothing was timed. Files of old versions
    have no column `build`, because they have first builds only. Raises InvalidInput where the file is not the one whose
    digest the ledger recorded.
    """
    with RunFolder(run).ledger() as ledger:
        recorded = ledger.samples_digest
    if recorded not in (None, _digest(run)):  # old versions recorded none
        raise InvalidInput(f"{run / FILE} is missing or damaged; {ADVICE.format(run=run)}")
    with duckdb.connect() as connection, _named(run):
        if (run / FILE).is_file():
            calls = connection.read_parquet(str(run / FILE))
            (calls.filter("build = 0") if "build" in calls.columns else calls).create_view("calls")
        else:
            connection.execute("CREATE TABLE calls (cell TEXT, role TEXT, block INT, start DOUBLE, latency DOUBLE)")
        yield connection


def write_parquet(columns: Mapping[str, np.ndarray], path: Path) -> None:
    """Write columns as Parquet; the file appears whole or not at all."""
    partial = path.with_suffix(".partial")
    with duckdb.connect() as connection:
        connection.register("columns", dict(columns))
        connection.table("columns").write_parquet(str(partial), compression="zstd")
    partial.replace(path)


def _parts(measured: Measured) -> Iterator[dict[str, np.ndarray]]:
    for index, role in enumerate(ROLES):
        columns = {name: measured.arrays[f"{name}_{index}"] for name in COLUMNS if f"{name}_{index}" in measured.arrays}
        if columns:
            count = len(columns["latency"])
            yield {
                "cell": np.full(count, measured.cell),
                "build": np.full(count, measured.build),
                "role": np.full(count, role),
            } | columns


def _filled(part: dict[str, np.ndarray], name: str) -> np.ndarray:
    return part[name] if name in part else np.full(len(part["latency"]), np.nan)


def _digest(run: Path) -> str:
    return blob_of(run / FILE).sha256 if (run / FILE).is_file() else ""


@contextmanager
def _named(run: Path) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise InvalidInput(f"{run / FILE} is damaged: {first_line(error)}; {ADVICE.format(run=run)}") from error
