"""samples.parquet, every timed call of a run: what reads it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

FILE = "samples.parquet"  # in the run's folder


@contextmanager
def calls_of(run: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with the relation `calls`: cell, role, block, start, latency; of first engines, not of replicates.

    Empty where nothing was timed. The files of older versions name no build: they have the first only.
    """
    with duckdb.connect() as connection:
        if (run / FILE).is_file():
            calls = connection.read_parquet(str(run / FILE))
            (calls.filter("build = 0") if "build" in calls.columns else calls).create_view("calls")
        else:
            connection.execute("CREATE TABLE calls (cell TEXT, role TEXT, block INT, start DOUBLE, latency DOUBLE)")
        yield connection
