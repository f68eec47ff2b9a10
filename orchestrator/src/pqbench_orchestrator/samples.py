"""samples.parquet, every timed call of a run: what reads it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from pqbench_orchestrator.ledger import FILE as LEDGER
from pqbench_orchestrator.ledger import Ledger
from pqbench_wire.blobs import blob_of
from pqbench_wire.errors import InvalidInput
from pqbench_wire.jobs import first_line

FILE = "samples.parquet"  # in the run's folder
ADVICE = "pqbench run --continue {run} writes it anew"


@contextmanager
def calls_of(run: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with the relation `calls`: cell, role, block, start, latency; of first engines, not of replicates.

    Raises InvalidInput for a file that is not the one which the ledger names.
    Empty where nothing was timed. The files of older versions name no build: they have the first only.
    """
    with Ledger(run / LEDGER, read_only=True) as ledger:
        recorded = ledger.fact(FILE)
    if recorded not in (None, digest_of(run)):  # old versions recorded none
        raise InvalidInput(f"{run / FILE} is missing or damaged; {ADVICE.format(run=run)}")
    with duckdb.connect() as connection, _named(run):
        if (run / FILE).is_file():
            calls = connection.read_parquet(str(run / FILE))
            (calls.filter("build = 0") if "build" in calls.columns else calls).create_view("calls")
        else:
            connection.execute("CREATE TABLE calls (cell TEXT, role TEXT, block INT, start DOUBLE, latency DOUBLE)")
        yield connection


def digest_of(run: Path) -> str:
    """The digest of a run's samples; empty where nothing was timed."""
    return blob_of(run / FILE).sha256 if (run / FILE).is_file() else ""


@contextmanager
def _named(run: Path) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise InvalidInput(f"{run / FILE} is damaged: {first_line(error)}; {ADVICE.format(run=run)}") from error
