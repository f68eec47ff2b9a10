"""The clock: interleaving, settings, stability verdicts, statistics on known data."""

from __future__ import annotations

import gc
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
    EngineTiming,
    GpuReading,
    LoadReading,
    MeasureSettings,
)
from pqbench_runtime import scenarios, server_rate, timing
from pqbench_runtime.scenarios import Call
from pqbench_runtime.stability import is_stable, judge
from pqbench_runtime.summary import median_interval, summarise
from pqbench_runtime.timing import Samples
from pqbench_wire.errors import InvalidInput

QUICK = {
    "warmup_seconds": 0.0, "warmup_iterations": 2, "min_seconds": 0.03, "min_iterations": 6, "max_seconds": 0.03,
    "stability": 0.05, "windows": 6, "discard": 1,
}  # fmt: skip


def settings(**changes: float) -> MeasureSettings:
    return MeasureSettings(**(QUICK | changes))  # type: ignore[arg-type]


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


def test_stability_is_a_matter_of_the_last_windows() -> None:
    assert is_stable([9.0, 1.0, 1.01, 0.99], settings())
    noisy = Samples(medians=[1.0, 1.0, 1.2, 1.0], latency=[1.0, 1.2, 1.0], block=[0, 1, 2])
    assert not is_stable(noisy.medians, settings())
    assert judged(noisy).unstable_reason.startswith("noise: the last 3 windows' medians differ by")


def test_every_reason_is_told() -> None:
    rng = np.random.default_rng(0)
    calm = Samples(medians=[1.0, 1.0, 1.0], latency=list(rng.normal(1, 0.02, 400)))
    assert judged(calm).stable and judged(calm).unstable_reason == ""
    assert (
        judged(calm, gpu=[GpuReading(), GpuReading(throttled=["power cap"])]).unstable_reason == "throttled: power cap"
    )
    held = [GpuReading(seconds=at, held_seconds={"power cap": 7 + 0.02 * at, "hardware thermal": 3}) for at in (0, 2)]
    assert judged(calm, gpu=held).unstable_reason == "throttled: power cap", "2 % of the time, between readings"
    rarely = [GpuReading(seconds=at, held_seconds={"power cap": 0.005 * at}) for at in (0, 2)]
    assert judged(calm, gpu=rarely).stable
    quiet, busy = LoadReading(foreign_cores=0.03), LoadReading(foreign_cores=0.9)
    assert judged(calm, load=[quiet] * 6).stable
    assert judged(calm, load=[quiet] * 5 + [busy]).unstable_reason.startswith("other load: other processes used")
    stolen = [LoadReading(stolen_cores=0.4)] * 6
    assert judged(calm, load=stolen).unstable_reason.startswith("other load: the hypervisor took")


@pytest.mark.parametrize(
    ("latency", "bimodal"),
    [
        (lambda rng: rng.normal(1, 0.02, 1000), False),
        (lambda rng: rng.lognormal(0, 0.3, 1000), False),
        (lambda rng: rng.uniform(1, 2, 1000), False),
        (lambda rng: np.concatenate([rng.normal(1, 0.02, 950), rng.normal(3, 0.05, 50)]), False),  # rare outliers
        (lambda rng: np.concatenate([rng.normal(1, 0.02, 600), rng.normal(1.05, 0.02, 400)]), False),  # too close
        (lambda rng: np.concatenate([rng.normal(1, 0.02, 600), rng.normal(1.4, 0.03, 400)]), True),
    ],
)
def test_two_modes_are_told_from_one(latency: Any, bimodal: bool) -> None:
    own = Samples(medians=[1.0, 1.0, 1.0], latency=list(latency(np.random.default_rng(1))))
    assert judged(own).unstable_reason.startswith("bimodal: 40% of the calls take 139") == bimodal
    assert judged(own).stable != bimodal


def test_statistics_on_known_data() -> None:
    latency = list(np.arange(1, 1002) / 1000)
    figures = summarise(Samples(latency=latency, medians=[0.5, 0.49, 0.51], calls=1001, busy=2.0))
    assert figures.median == pytest.approx(0.501) and figures.mean == pytest.approx(0.501)
    assert figures.p90 == pytest.approx(0.901) and figures.p99 == pytest.approx(0.991)
    assert figures.p999 == pytest.approx(1.0) and figures.max == pytest.approx(1.001)
    assert figures.std == pytest.approx(np.std(latency, ddof=1)) and figures.calls_per_second == 500.5
    assert (figures.median_low, figures.median_high) == (0.49, 0.51)


@pytest.mark.parametrize(("blocks", "covers"), [(6, 0.969), (12, 0.961), (30, 0.957)])
def test_the_medians_interval_covers_as_often_as_it_says_though_blocks_differ(blocks: int, covers: float) -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(2000):
        noise = rng.normal(0, 0.05, (blocks, 1))  # shared by a block's calls
        low, high = median_interval(list(np.median(np.exp(noise + rng.normal(0, 0.5, (blocks, 21))), axis=1)))
        hits += low <= 1.0 <= high
    assert hits / 2000 == pytest.approx(covers, abs=0.012)


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
        ({"scenario": SCENARIO_SERVER, "rate": 1e9}, "calls a second is over"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, float], problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        timing.measure([[lambda: np.zeros(1)]], settings(**change))


def sleeper(seconds: float) -> Call:
    return lambda: time.sleep(seconds)


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


def test_server_latency_counts_from_the_scheduled_arrival() -> None:
    """Three calls that arrive at once, served one after the other by one instance."""
    with ThreadPoolExecutor(2) as pool:
        block = scenarios.server(pool, [sleeper(0.01)], np.array([0.0, 0.0, 0.0, 0.2]))
        both = scenarios.server(pool, [sleeper(0.01)] * 2, np.array([0.0, 0.0, 0.0, 0.2]))
    waited = np.asarray(block.latency)
    assert 0.01 <= waited[0] < waited[1] < waited[2] and waited[2] >= 0.03 and waited[3] < 0.02
    assert len(block.slip) == 1, "only the last call found an idle instance; the first three were due already"
    assert max(both.latency) < 0.029, "two instances share the work"


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
    assert own.calls >= server_rate.LEAST_CALLS and own.server.valid
    fixed = timing.measure(
        [[sleeper(0.002)]], settings(scenario=SCENARIO_SERVER, rate=100, min_seconds=0.1, max_seconds=0.5)
    )[0]
    assert fixed.server is not None and fixed.server.rate == 100 and len(fixed.server.probes) == 1
    assert not fixed.server.valid and "are too few for a 99th percentile" in fixed.server.invalid_reason


def test_an_engine_that_cannot_keep_up_is_invalid_and_does_not_go_on_for_ever() -> None:
    overloaded = settings(scenario=SCENARIO_SERVER, rate=2000, min_seconds=0.3, max_seconds=0.3)
    begin = time.perf_counter()
    own = timing.measure([[sleeper(0.005)]], overloaded)[0]
    assert own.server is not None and not own.server.valid and not own.server.met
    assert "the engine cannot keep up: it served" in own.server.invalid_reason
    assert own.calls < 200 and time.perf_counter() - begin < 3, "600 calls would take three seconds at least"


def test_what_waits_in_a_queue_is_not_unstable() -> None:
    rng = np.random.default_rng(0)
    queued = Samples(medians=[1.0, 1.2, 1.5], latency=[*rng.normal(1, 0.02, 60), *rng.normal(2, 0.02, 40)])
    made = summarise(queued)
    judge(made, np.asarray(queued.latency), queued.medians, settings(scenario=SCENARIO_SERVER), [], [])
    assert made.stable and not judged(queued).stable


@pytest.mark.parametrize("scenario", [SCENARIO_MULTI_STREAM, SCENARIO_OFFLINE])
def test_instances_are_warm_on_the_threads_that_are_timed(scenario: Any) -> None:
    """What is slow once a thread is slow before the clock runs."""
    seen: set[int] = set()

    def call() -> None:
        time.sleep(0.001 if threading.get_ident() in seen else 0.05)
        seen.add(threading.get_ident())

    chosen = settings(scenario=scenario, min_seconds=0.2, max_seconds=0.2, warmup_iterations=20)
    own = timing.measure([[call] * 3], chosen)[0]
    assert len(seen) == 3 and max(own.latency) < 0.04


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
