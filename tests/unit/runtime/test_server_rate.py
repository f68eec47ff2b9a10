"""The search for the highest rate."""

from __future__ import annotations

import time

import numpy as np

from pqbench.runtime.v1.runtime_pb2 import (
    SCENARIO_SERVER,
    MeasureSettings,
)
from pqbench_runtime import server_rate, timing
from pqbench_runtime.scenarios import Call

QUICK = {
    "warmup_seconds": 0.0, "warmup_iterations": 2, "min_seconds": 0.03, "min_iterations": 6, "max_seconds": 0.03,
    "stability": 0.05, "windows": 6, "discard": 1,
}  # fmt: skip


def settings(**changes: float) -> MeasureSettings:
    return MeasureSettings(**(QUICK | changes))  # type: ignore[arg-type]


def sleeper(seconds: float) -> Call:
    return lambda: time.sleep(seconds)


def test_the_highest_rate_that_meets_a_bound_is_searched() -> None:
    chosen = settings(
        scenario=SCENARIO_SERVER, p99_seconds=0.02, min_seconds=0.3, max_seconds=2, warmup_iterations=1, seed=3
    )
    own = timing.measure([[sleeper(0.002)]], chosen)[0]
    assert own.server is not None
    rates = [probe.rate for probe in own.server.probes]
    assert len(rates) >= server_rate.PROBES and own.server.rate == rates[-1] and 50 < rates[-1] < 500
    assert {probe.met for probe in own.server.probes} == {True, False}
    assert own.server.met == (np.percentile(own.latency, 99) <= 0.02)
    assert own.calls >= server_rate.LEAST_CALLS
    assert own.server.valid or "the generator was late" in own.server.invalid_reason  # on a busy machine
    fixed = timing.measure(
        [[sleeper(0.002)]], settings(scenario=SCENARIO_SERVER, rate=100, min_seconds=0.1, max_seconds=0.5)
    )[0]
    assert fixed.server is not None and fixed.server.rate == 100 and len(fixed.server.probes) == 1
    assert not fixed.server.valid and "are too few for a 99th percentile" in fixed.server.invalid_reason
