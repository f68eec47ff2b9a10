"""samples.parquet, every timed call of a run: what reads it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from pqbench_wire.errors import InvalidInput
from pqbench_wire.jobs import first_line

FILE = "samples.parquet"  # in the run's folder


@contextmanager
def calls_of(run: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with the relation `calls`: cell, role, block, start, latency; of first engines, not of replicates.

    Raises InvalidInput for a damaged file.
    Empty where nothing was timed. The files of older versions name no build: they have the first only.
    """
    with duckdb.connect() as connection, _named(run):
        if (run / FILE).is_file():
            calls = connection.read_parquet(str(run / FILE))
            (calls.filter("build = 0") if "build" in calls.columns else calls).create_view("calls")
        else:
            connection.execute("CREATE TABLE calls (cell TEXT, role TEXT, block INT, start DOUBLE, latency DOUBLE)")
        yield connection


@contextmanager
def _named(run: Path) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise InvalidInput(
            f"{run / FILE} is damaged: {first_line(error)}; pqbench run --continue {run} writes it anew"
        ) from error
