"""Scenarios after MLPerf."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from pqbench.runtime.v1.runtime_pb2 import (
    SCENARIO_MULTI_STREAM,
    SCENARIO_OFFLINE,
    SCENARIO_SERVER,
)
from pqbench_runtime import scenarios, timing
from pqbench_runtime.summary import summarise

from .quick import settings, sleeper, up_to_three_times


def test_multi_stream_waits_for_the_slowest() -> None:
    own = timing.measure([[sleeper(0.001), sleeper(0.004)]], settings(scenario=SCENARIO_MULTI_STREAM))[0]
    assert min(own.latency) >= 0.004
    assert own.calls == 2 * len(own.latency)
    assert summarise(own).calls_per_second == pytest.approx(2 / np.mean(own.latency), rel=0.2)


def test_offline_keeps_every_instance_busy() -> None:
    chosen = settings(scenario=SCENARIO_OFFLINE, min_seconds=0.09, max_seconds=0.09)
    one, four = (timing.measure([[sleeper(0.003)] * n], chosen)[0] for n in (1, 4))
    assert summarise(four).calls_per_second > 2.5 * summarise(one).calls_per_second
    assert four.start == sorted(four.start) and len(four.start) == len(four.latency) == four.calls


def test_arrivals_are_poisson_and_seeded() -> None:
    first, again, other = (scenarios.poisson(200, 30, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert len(first) != len(other) and abs(len(first) - 6000) < 5 * np.sqrt(6000)
    gaps = np.diff(first)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05), "exponential gaps"
    assert first[0] > 0 and first[-1] < 30 and len(scenarios.poisson(0.1, 0.1, np.random.default_rng(0))) == 1


@up_to_three_times
def test_server_latency_counts_from_the_scheduled_arrival() -> None:
    """Three calls that arrive at once, served one after the other by one instance."""
    with ThreadPoolExecutor(2) as pool:
        block = scenarios.server(pool, [sleeper(0.01)], np.array([0.0, 0.0, 0.0, 0.2]))
        both = scenarios.server(pool, [sleeper(0.01)] * 2, np.array([0.0, 0.0, 0.0, 0.2]))
    waited = np.asarray(block.latency)
    assert 0.01 <= waited[0] < waited[1] < waited[2] and waited[2] >= 0.03 and waited[3] < 0.02
    assert len(block.slip) == 1, "only the last call found an idle instance; the first three were due already"
    assert max(both.latency) < 0.029, "two instances share the work"


@up_to_three_times
def test_an_engine_that_cannot_keep_up_is_invalid_and_does_not_go_on_for_ever() -> None:
    overloaded = settings(scenario=SCENARIO_SERVER, rate=2000, min_seconds=0.3, max_seconds=0.3)
    begin = time.perf_counter()
    own = timing.measure([[sleeper(0.005)]], overloaded)[0]
    assert own.server is not None and not own.server.valid and not own.server.met
    assert "the engine cannot keep up: it served" in own.server.invalid_reason
    assert own.calls < 200 and time.perf_counter() - begin < 3, "600 calls would take three seconds at least"


@pytest.mark.parametrize("scenario", [SCENARIO_MULTI_STREAM, SCENARIO_OFFLINE])
@up_to_three_times
def test_instances_are_warm_on_the_threads_that_are_timed(scenario: Any) -> None:
    """What is slow once a thread is slow before the clock runs."""
    seen: set[int] = set()

    def call() -> None:
        time.sleep(0.001 if threading.get_ident() in seen else 0.05)
        seen.add(threading.get_ident())

    chosen = settings(scenario=scenario, min_seconds=0.2, max_seconds=0.2, warmup_iterations=20)
    own = timing.measure([[call] * 3], chosen)[0]
    assert len(seen) == 3 and max(own.latency) < 0.04


@up_to_three_times
def test_a_generator_that_lags_makes_the_run_invalid() -> None:
    def slow_wait(moment: float) -> bool:
        time.sleep(max(0.0, moment - time.perf_counter()) + 0.002)
        return True

    kept, scenarios._wait_until = scenarios._wait_until, slow_wait
    try:
        own = timing.measure(
            [[sleeper(0.0005)]], settings(scenario=SCENARIO_SERVER, rate=200, min_seconds=1, max_seconds=1)
        )[0]
    finally:
        scenarios._wait_until = kept
    assert own.server is not None and not own.server.valid and "the generator was late by" in own.server.invalid_reason
