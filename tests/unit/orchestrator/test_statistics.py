"""Statistics against SciPy and statsmodels on known data, and by simulation: intervals cover as often as they say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from pqbench_orchestrator import statistics as stats

SIMULATIONS = 1000
COVERED = (0.93, 0.97)


def coverage(make: Any, truth: float, seed: int = 0, simulations: int = SIMULATIONS) -> float:
    """How often make(rng) -> (low, high) holds the truth."""
    rng, hits = np.random.default_rng(seed), 0
    for _ in range(simulations):
        low, high = make(rng)
        hits += low <= truth <= high
    return hits / simulations


def test_wilson_is_statsmodels() -> None:
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    for hits, total in ((0, 10), (3, 10), (92, 100), (842, 846), (846, 846)):
        low, high = proportion.proportion_confint(hits, total, alpha=0.05, method="wilson")
        assert stats.wilson(hits, total) == pytest.approx((max(0.0, low), min(1.0, high)), abs=1e-9)


def test_wilson_covers() -> None:
    for share in (0.7, 0.92):
        covered = coverage(lambda rng, p=share: stats.wilson(int(rng.binomial(846, p)), 846), share, simulations=2000)
        assert COVERED[0] <= covered <= COVERED[1]


def answers(gained: int, lost: int, both: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    variant = np.repeat([True, False, True, False], [gained, lost, both, neither])
    baseline = np.repeat([False, True, True, False], [gained, lost, both, neither])
    return variant, baseline


@pytest.mark.parametrize(("gained", "lost"), [(3, 9), (10, 10), (0, 6), (40, 15), (1, 0)])
def test_mcnemar_is_statsmodels(gained: int, lost: int) -> None:
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    variant, baseline = answers(gained, lost, 700, 100)
    found = stats.paired_difference(variant, baseline)
    wanted = tables.mcnemar([[700, gained], [lost, 100]], exact=True).pvalue
    assert found.p == pytest.approx(wanted) and found.indistinguishable == (wanted >= 0.05)
    assert found.points == pytest.approx(100 * (gained - lost) / len(variant))
    assert found.low <= found.points <= found.high


def test_equal_answers_are_indistinguishable_within_what_can_be_known() -> None:
    variant, baseline = answers(0, 0, 800, 46)
    found = stats.paired_difference(variant, baseline)
    assert (found.points, found.p, found.indistinguishable) == (0.0, 1.0, True)
    assert found.low == -found.high and 0 < found.high < 0.5


def test_the_paired_bootstrap_covers() -> None:
    shares = [0.04, 0.06, 0.8, 0.1]  # gained, lost, both, neither

    def make(rng: np.random.Generator) -> tuple[float, float]:
        found = stats.paired_difference(*answers(*rng.multinomial(846, shares)))
        return found.low, found.high

    assert COVERED[0] <= coverage(make, -2.0) <= COVERED[1]


def test_mcnemar_errs_as_rarely_as_it_says() -> None:
    rng, wrong = np.random.default_rng(1), 0
    for _ in range(SIMULATIONS):
        wrong += not stats.paired_difference(*answers(*rng.multinomial(846, [0.05, 0.05, 0.8, 0.1]))).indistinguishable
    assert wrong / SIMULATIONS <= 0.05


def test_welch_is_scipy_and_covers() -> None:
    rng = np.random.default_rng(2)
    over, under = rng.lognormal(0.1, 0.02, 5), rng.lognormal(0.0, 0.05, 4)
    found = stats.unpaired_ratio(over, under)
    wanted = scipy_stats.ttest_ind(np.log(over), np.log(under), equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((math.exp(wanted.low), math.exp(wanted.high)))

    def make(rng: np.random.Generator) -> tuple[float, float]:
        ratio = stats.unpaired_ratio(1.3 * rng.lognormal(0, 0.02, 5), rng.lognormal(0, 0.04, 5))
        return ratio.low, ratio.high

    assert COVERED[0] <= coverage(make, 1.3) <= COVERED[1]


def test_one_value_gives_no_interval_and_equal_values_none_to_speak_of() -> None:
    assert stats.unpaired_ratio([2.0], [1.0, 1.1]).high == math.inf
    assert stats.unpaired_ratio([2.0, 2.0], [1.0, 1.0]) == stats.Ratio(value=2.0, low=2.0, high=2.0)


def test_the_sequential_test_stops_hopeless_cells_early_and_others_rarely() -> None:
    """Walk through 2,000 answers: at 60 % where 90 % is wanted, and at exactly what is acceptable."""
    rng = np.random.default_rng(3)

    def stops_at(share: float) -> int | None:
        right = rng.random(2000) < share
        return next((n for n in range(50, 2001, 50) if stats.is_hopeless(right[:n], 0.9, 0.05)), None)

    hopeless = [stops_at(0.6) for _ in range(200)]
    assert all(n is not None and n <= 100 for n in hopeless)
    fine = [stops_at(0.9) for _ in range(400)]
    assert sum(n is not None for n in fine) / 400 <= 0.02


def test_spread_is_the_pooled_standard_deviation() -> None:
    assert stats.spread_percent([[1.0], [2.0]]) is None
    groups = [[1.0, 1.1, 0.9], [2.0, 2.1]]
    logs = [np.log(group) for group in groups]
    wanted = 100 * math.sqrt(sum(((g - g.mean()) ** 2).sum() for g in logs) / 3)
    assert stats.spread_percent(groups) == pytest.approx(wanted)


def test_the_paired_speedup_ignores_a_drift_that_meets_both() -> None:
    rng = np.random.default_rng(0)
    block = np.repeat(np.arange(8), 50)
    drift = 1 + 0.2 * block
    baseline = 2.0 * drift * rng.normal(1, 0.01, 400)
    variant = 1.0 * drift * rng.normal(1, 0.01, 400)
    ratio = stats.paired_speedup(variant, block, baseline, block)
    assert ratio.value == pytest.approx(2, rel=0.01) and ratio.low < 2 < ratio.high
    assert ratio.high - ratio.low < 0.05


def test_the_speedups_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    block, hits = np.repeat(np.arange(6), 30), 0
    for _ in range(1000):
        a, b = (np.exp(rng.normal(0, 0.05, 6))[block] * np.exp(rng.normal(0, 0.01, 180)) for _ in range(2))
        ratio = stats.paired_speedup(a, block, 1.5 * b, block)
        hits += ratio.low <= 1.5 <= ratio.high
    assert 0.93 <= hits / 1000 <= 0.97


def test_one_block_gives_no_interval() -> None:
    ones = np.ones(5)
    ratio = stats.paired_speedup(ones, np.zeros(5, int), 2 * ones, np.zeros(5, int))
    assert ratio.value == 2 and ratio.low == 0 and ratio.high == np.inf


def test_pareto_front() -> None:
    assert stats.pareto_front([(1, 90), (2, 95), (3, 94), (1.5, 90), (4, 96), (1, 80)]) == [0, 1, 4]
    assert stats.pareto_front([]) == []


@pytest.mark.parametrize(
    ("ratio", "said"),
    [((1.004, 1.002, 1.006), stats.SAME), ((1.02, 1.015, 1.025), stats.WORSE), ((1.02, 0.99, 1.05), stats.SAME), ((0.9, 0.88, 0.92), stats.BETTER),
     ((1.5, 0.0, math.inf), stats.SAME)],
)  # fmt: skip
def test_verdicts(ratio: tuple[float, float, float], said: str) -> None:
    assert stats.verdict(stats.Ratio(value=ratio[0], low=ratio[1], high=ratio[2])) == said


def test_the_halves_are_seeded_stratified_and_apart() -> None:
    labels = np.repeat(np.arange(7), [1, 2, 3, 10, 11, 50, 80])
    chosen = stats.selection_half(labels, 3)
    assert (chosen == stats.selection_half(labels, 3)).all() and (chosen != stats.selection_half(labels, 4)).any()
    for label in range(7):
        own = labels == label
        assert abs(int(chosen[own].sum()) - int((~chosen)[own].sum())) <= 1
    assert stats.least_loss_shown(stats.images_for(1.0)) <= 1.0 < stats.least_loss_shown(stats.images_for(1.0) - 1)
