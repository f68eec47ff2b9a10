"""Statistics of samples."""

from __future__ import annotations

import numpy as np
import pytest

from pqbench_runtime.summary import median_interval, summarise
from pqbench_runtime.timing import Samples


def test_statistics_on_known_data() -> None:
    latency = list(np.arange(1, 1002) / 1000)
    figures = summarise(Samples(latency=latency, medians=[0.5, 0.49, 0.51], calls=1001, busy=2.0))
    assert figures.median == pytest.approx(0.501) and figures.mean == pytest.approx(0.501)
    assert figures.p90 == pytest.approx(0.901) and figures.p99 == pytest.approx(0.991)
    assert figures.p999 == pytest.approx(1.0) and figures.max == pytest.approx(1.001)
    assert figures.std == pytest.approx(np.std(latency, ddof=1)) and figures.calls_per_second == 500.5
    assert (figures.median_low, figures.median_high) == (0.49, 0.51)


@pytest.mark.parametrize(("most", "rest"), [(1.0, 2.0), (2.0, 1.0)])
def test_the_medians_interval_holds_the_median_though_calls_have_two_modes(most: float, rest: float) -> None:
    blocks = np.array([[most, most, most, rest, rest]] * 12 + [[rest] * 5] * 3)
    figures = summarise(Samples(latency=list(blocks.ravel()), medians=list(np.median(blocks, axis=1))))
    assert figures.median == rest
    assert figures.median_low <= figures.median <= figures.median_high


@pytest.mark.parametrize(("blocks", "covers"), [(6, 0.969), (12, 0.961), (30, 0.957)])
def test_the_medians_interval_covers_as_often_as_it_says_though_blocks_differ(blocks: int, covers: float) -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(2000):
        noise = rng.normal(0, 0.05, (blocks, 1))  # shared by a block's calls
        low, high = median_interval(list(np.median(np.exp(noise + rng.normal(0, 0.5, (blocks, 21))), axis=1)))
        hits += low <= 1.0 <= high
    assert hits / 2000 == pytest.approx(covers, abs=0.012)
