"""What a cell's page has of its calls: all of them, in bins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pqbench_orchestrator.output.report.details import BINS, STRETCHES, details
from pqbench_orchestrator.results.tables import recorded
from pqbench_orchestrator.store.ledger import FILE, Ledger
from pqbench_orchestrator.store.run_folder import RunFolder
from pqbench_orchestrator.store.samples import Measured, write_samples

from ..damage import a_run


def test_bins_hold_every_call_and_the_true_extremes(tmp_path: Path) -> None:
    latency = np.concatenate([np.linspace(0.001, 0.002, 2000), [0.5]])
    start = np.arange(len(latency)) * 0.01
    arrays = {"latency_0": latency, "block_0": np.zeros(len(latency), int), "start_0": start,
              "latency_1": np.full(3, 0.0015), "block_1": np.zeros(3, int), "start_1": np.zeros(3)}  # fmt: skip
    run = RunFolder(a_run(tmp_path / "r"))
    with Ledger(run / FILE) as ledger:
        write_samples([Measured(cell="c", build=0, arrays=arrays)], run.path, ledger)
        cells = recorded(ledger)
    found = details(run, cells)["c"]["samples"]
    variant, baseline = found["variant"], found["baseline"]
    assert len(variant["counts"]) == BINS and sum(variant["counts"]) + variant["beyond"] == len(latency)
    assert variant["slowest"] == pytest.approx(500) and 1 <= variant["beyond"] <= 20
    assert variant["low"] == pytest.approx(1) and variant["high"] == pytest.approx(2, rel=0.01)
    assert baseline["low"] == baseline["high"] == pytest.approx(1.5)
    assert sum(baseline["counts"]) == 3 and baseline["beyond"] == 0
    assert len(variant["series"]) == STRETCHES
    assert max(most for *_, most in variant["series"]) == pytest.approx(500)
    assert min(least for _, least, *_ in variant["series"]) == pytest.approx(1)
    assert baseline["series"] == [[0.0, 1.5, 1.5, 1.5]]


def test_calls_that_all_take_the_same_time(tmp_path: Path) -> None:
    run = RunFolder(a_run(tmp_path / "r"))
    arrays = {"latency_0": np.full(7, 0.001), "block_0": np.zeros(7, int), "start_0": np.arange(7.0)}
    with Ledger(run / FILE) as ledger:
        write_samples([Measured(cell="c", build=0, arrays=arrays)], run.path, ledger)
        cells = recorded(ledger)
    one = details(run, cells)["c"]["samples"]["variant"]
    assert one["counts"][0] == 7 and one["beyond"] == 0
