"""Timing: interleaving, samples, the garbage collector."""

from __future__ import annotations

import gc
import time
from typing import Any

import numpy as np
import pytest

from pqbench.runtime.v1.runtime_pb2 import (
    SCENARIO_SERVER,
    EngineTiming,
)
from pqbench_runtime import timing
from pqbench_runtime.scenarios import Call
from pqbench_runtime.stability import judge
from pqbench_runtime.summary import summarise
from pqbench_runtime.timing import Samples
from pqbench_wire.errors import InvalidInput

from .quick import settings


def test_engines_are_interleaved_and_switches_discarded() -> None:
    order: list[str] = []

    def call(name: str) -> Call:
        def run() -> np.ndarray:
            order.append(name)
            return np.zeros(1)

        return run

    calls = [call("a"), call("b")]
    samples = timing.measure([[one] for one in calls], settings(min_seconds=1e-9, max_seconds=1e-9, min_iterations=12))
    # Warm-up of both, then A B, B A, A B, ...: one call that does not count and two that do in each block.
    assert "".join(order) == "aa" + "bb" + ("aaa" + "bbb" + "bbb" + "aaa") * 3
    assert [s.block for s in samples] == [[0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]] * 2


def test_samples_are_what_the_calls_took() -> None:
    pauses = iter([0.0, 0.0, *[0.002] * 1000])

    def call() -> np.ndarray:
        time.sleep(next(pauses))
        return np.zeros(1)

    samples = timing.measure([[call]], settings())[0]
    assert len(samples.latency) == len(samples.start) == len(samples.block) >= 6
    assert min(samples.latency) >= 0.002
    assert sorted(samples.start) == samples.start


def test_the_garbage_collector_rests_while_timing() -> None:
    states: list[bool] = []

    def call() -> np.ndarray:
        states.append(gc.isenabled())
        return np.zeros(1)

    timing.measure([[call]], settings())
    assert not any(states) and gc.isenabled()


def test_a_failing_call_leaves_the_collector_on() -> None:
    def call() -> np.ndarray:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        timing.measure([[call]], settings())
    assert gc.isenabled()


def test_an_unstable_engine_is_measured_longer_and_marked() -> None:
    count = iter(range(10**6))

    def call() -> np.ndarray:
        time.sleep(0.0005 * 1.1 ** next(count))
        return np.zeros(1)

    own = timing.measure([[call]], settings(max_seconds=0.2))[0]
    assert max(own.block) >= 6, "it went on beyond the first six windows"
    verdict = judged(own)
    assert not verdict.stable and verdict.unstable_reason.startswith(("drift: ", "noise: "))  # noise on a busy machine


def judged(own: Samples, gpu: Any = (), load: Any = ()) -> EngineTiming:
    made = summarise(own)
    judge(made, np.asarray(own.latency), own.medians, settings(), gpu, load)
    return made


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"windows": 5}, "windows must be at least 6"),
        ({"min_seconds": 0}, "min_seconds"),
        ({"max_seconds": 0.01}, "min_seconds <= max_seconds"),
        ({"stability": 0}, "stability"),
        ({"stability": 1}, "stability"),
        ({"concurrency": 100}, "concurrency must be at most 64"),
        ({"scenario": SCENARIO_SERVER}, "needs a rate, or p99_seconds"),
        ({"scenario": SCENARIO_SERVER, "rate": 1e9}, "calls, got a rate of"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, float], problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        timing.measure([[lambda: np.zeros(1)]], settings(**change))
