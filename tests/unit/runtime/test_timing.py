"""The clock: interleaving, settings, stability verdicts, statistics on known data."""

from __future__ import annotations

import gc
import time

import numpy as np
import pytest

from pqbench.runtime.v1.runtime_pb2 import MeasureSettings
from pqbench_runtime import timing
from pqbench_runtime.timing import Samples
from pqbench_wire.errors import InvalidInput

QUICK = {
    "warmup_seconds": 0.0, "warmup_iterations": 2, "min_seconds": 0.03, "min_iterations": 6, "max_seconds": 0.03,
    "stability": 0.05, "windows": 3, "discard": 1,
}  # fmt: skip


def settings(**changes: float) -> MeasureSettings:
    return MeasureSettings(**(QUICK | changes))  # type: ignore[arg-type]


def test_engines_are_interleaved_and_switches_discarded() -> None:
    order: list[str] = []

    def call(name: str) -> timing.Call:
        def run() -> np.ndarray:
            order.append(name)
            return np.zeros(1)

        return run

    calls = [call("a"), call("b")]
    samples = timing.measure(calls, settings(min_seconds=1e-9, max_seconds=1e-9))
    # Warm-up of both, then A B, B A, A B: two calls a block, one more after each switch.
    assert "".join(order) == "aa" + "bb" + "aaa" + "bbb" + "bb" + "aaa" + "aa" + "bbb"
    assert [s.block for s in samples] == [[0, 0, 1, 1, 2, 2]] * 2


def test_samples_are_what_the_calls_took() -> None:
    pauses = iter([0.0, 0.0, *[0.002] * 1000])

    def call() -> np.ndarray:
        time.sleep(next(pauses))
        return np.zeros(1)

    samples = timing.measure([call], settings())[0]
    assert len(samples.latency) == len(samples.start) == len(samples.block) >= 6
    assert min(samples.latency) >= 0.002
    assert sorted(samples.start) == samples.start


def test_the_garbage_collector_rests_while_timing() -> None:
    states: list[bool] = []

    def call() -> np.ndarray:
        states.append(gc.isenabled())
        return np.zeros(1)

    timing.measure([call], settings())
    assert not any(states) and gc.isenabled()


def test_a_failing_call_leaves_the_collector_on() -> None:
    def call() -> np.ndarray:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        timing.measure([call], settings())
    assert gc.isenabled()


def test_an_unstable_engine_is_measured_longer_and_marked() -> None:
    count = iter(range(10**6))

    def call() -> np.ndarray:
        time.sleep(0.0005 * 1.1 ** next(count))
        return np.zeros(1)

    own = timing.measure([call], settings(max_seconds=0.2))[0]
    assert max(own.block) >= 3, "it went on beyond the first three windows"
    verdict = timing.summarise(own, settings(), 0.0)
    assert not verdict.stable and verdict.unstable_reason.startswith("drift: ")


def test_stability_is_a_matter_of_the_last_windows() -> None:
    calm = Samples(medians=[9.0, 1.0, 1.01, 0.99])
    assert timing.is_stable(calm, settings())
    noisy = Samples(medians=[1.0, 1.0, 1.2, 1.0], latency=[1.0, 1.2, 1.0], block=[0, 1, 2])
    assert not timing.is_stable(noisy, settings())
    assert timing.summarise(noisy, settings(), 0).unstable_reason.startswith(
        "noise: the last 3 windows' medians differ"
    )


def test_statistics_on_known_data() -> None:
    latency = list(np.arange(1, 1002) / 1000)
    figures = timing.summarise(Samples(latency=latency, medians=[1.0, 1.0, 1.0]), settings(), 2.5)
    assert figures.median == pytest.approx(0.501) and figures.mean == pytest.approx(0.501)
    assert figures.p90 == pytest.approx(0.901) and figures.p99 == pytest.approx(0.991)
    assert figures.p999 == pytest.approx(1.0) and figures.max == pytest.approx(1.001)
    assert figures.std == pytest.approx(np.std(latency, ddof=1)) and figures.load_seconds == 2.5
    assert figures.median_low < figures.median < figures.median_high


def test_the_medians_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        low, high = timing.median_interval(rng.lognormal(0, 0.5, 101), seed=int(rng.integers(1 << 30)))
        hits += low <= 1.0 <= high
    assert 0.92 <= hits / 400 <= 0.98


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"windows": 2}, "windows must be at least 3"),
        ({"min_seconds": 0}, "min_seconds"),
        ({"max_seconds": 0.01}, "min_seconds <= max_seconds"),
        ({"stability": 0}, "stability"),
        ({"stability": 1}, "stability"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, float], problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        timing.measure([lambda: np.zeros(1)], settings(**change))
