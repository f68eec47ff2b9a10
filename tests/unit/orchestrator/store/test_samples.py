"""samples.parquet: what is written is read, and what is damaged is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pytest

from pqbench_orchestrator.store.ledger import FILE, Ledger
from pqbench_orchestrator.store.samples import FILE as SAMPLES
from pqbench_orchestrator.store.samples import Measured, calls_of, write_samples
from pqbench_wire.blobs import blob_of
from pqbench_wire.errors import InvalidInput


@pytest.mark.parametrize("columns", ["0 AS build, ", ""])
def test_samples_are_read_with_and_without_replicates(columns: str, tmp_path: Path) -> None:
    Ledger(tmp_path / FILE).close()
    with calls_of(tmp_path) as nothing:
        assert nothing.execute("SELECT * FROM calls").fetchall() == []
    said = f"SELECT 'c' AS cell, {columns}'variant' AS role, 0 AS block, 0.0 AS start, 0.5 AS latency"
    more = f" UNION ALL {said.replace('0 AS build', '1 AS build').replace('0.5', '9.0')}" if columns else ""
    duckdb.sql(said + more).write_parquet(str(tmp_path / "samples.parquet"))
    with calls_of(tmp_path) as connection:
        assert connection.execute("SELECT latency FROM calls").fetchall() == [(0.5,)], "of the first engine only"


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"others' calls")])
def test_samples_that_are_not_the_recorded_ones_are_named(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    (tmp_path / SAMPLES).write_bytes(b"calls")
    with Ledger(tmp_path / FILE) as ledger:
        ledger.record_samples(blob_of(tmp_path / SAMPLES).sha256)
    damage(tmp_path / SAMPLES)
    with pytest.raises(InvalidInput, match=f"{SAMPLES} is missing or damaged; .*--continue"), calls_of(tmp_path):
        pass


def test_damaged_samples_are_named(tmp_path: Path) -> None:
    Ledger(tmp_path / FILE).close()
    (tmp_path / SAMPLES).write_bytes(b"PAR1 and no more PAR1")
    with pytest.raises(InvalidInput, match=f"{SAMPLES} is damaged"), calls_of(tmp_path) as connection:
        connection.execute("SELECT count(*) FROM calls").fetchall()


def test_every_call_of_every_engine_is_kept(tmp_path: Path) -> None:
    paired = {"latency_0": np.array([1.0, 2.0]), "block_0": np.array([0, 1]), "start_0": np.array([0.0, 1.0]),
              "latency_1": np.array([4.0]), "block_1": np.array([0]), "start_1": np.array([0.5])}  # fmt: skip
    on_gpu = {
        "latency_0": np.array([9.0]),
        "block_0": np.array([0]),
        "start_0": np.array([0.0]),
        "compute_0": np.array([8.0]),
    }
    with Ledger(tmp_path / FILE) as ledger:
        measured = [Measured(cell="a", build=0, arrays=paired), Measured(cell="a", build=1, arrays=on_gpu)]
        write_samples(measured, tmp_path, ledger)
    with calls_of(tmp_path) as calls:
        found = calls.execute("SELECT cell, role, latency FROM calls ORDER BY latency").fetchall()
    assert found == [("a", "variant", 1.0), ("a", "variant", 2.0), ("a", "baseline", 4.0)], "of first engines"
    whole = duckdb.read_parquet(str(tmp_path / SAMPLES))
    assert whole.filter("build = 1").project("compute").fetchall() == [(8.0,)]
    assert whole.filter("compute IS NULL").count("*").fetchall() == [(3,)], "null where a device has no events"


def test_a_run_without_times_has_no_samples(tmp_path: Path) -> None:
    with Ledger(tmp_path / FILE) as ledger:
        write_samples([], tmp_path, ledger)
    with calls_of(tmp_path) as calls:
        assert calls.execute("SELECT count(*) FROM calls").fetchall() == [(0,)]
