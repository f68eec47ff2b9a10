"""The search for the highest rate."""

from __future__ import annotations

import numpy as np

from pqbench.runtime.v1.runtime_pb2 import (
    SCENARIO_SERVER,
)
from pqbench_runtime import server_rate, timing

from .quick import settings, sleeper, up_to_three_times


@up_to_three_times
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
    in_time = own.server.slip_p99 <= server_rate.MAX_SLIP * np.percentile(own.latency, 99)
    assert own.server.valid == in_time, "a busy machine makes the generator late, and the run then says so"
    fixed = timing.measure(
        [[sleeper(0.002)]], settings(scenario=SCENARIO_SERVER, rate=100, min_seconds=0.1, max_seconds=0.5)
    )[0]
    assert fixed.server is not None and fixed.server.rate == 100 and len(fixed.server.probes) == 1
    assert not fixed.server.valid and "are too few for a 99th percentile" in fixed.server.invalid_reason
