"""Statistics over raw samples: intervals, tests and verdicts for latencies and accuracies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # loads scipy.stats when it is first used: that takes half a second

NORMAL = 1.96  # standard errors on either side of a 95 % interval
LEVEL = 0.95
RESAMPLES = 10_000
TOLERANCE = 0.01  # a smaller relative change of latency counts as none, however narrow its interval
APART = 0.05  # the same for two runs or two single sessions: their latencies differ by this much without any cause
BETTER, WORSE, SAME = "better", "worse", "same"


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A ratio with its 95 % interval."""

    value: float
    low: float
    high: float


def paired_speedup(
    variant: np.ndarray, variant_block: np.ndarray, baseline: np.ndarray, baseline_block: np.ndarray
) -> Ratio:
    """The baseline's median latency over the variant's, both measured interleaved in numbered blocks.

    Latencies float [n] in seconds, block numbers int [n]. The value is the geometric mean of the
    blocks' ratios of medians, so that what slows a block slows both sides of its ratio; the
    interval is Student's t over their logarithms: a block's calls share its noise, so blocks, not
    calls, are the independent observations. One block gives no interval (0 to infinity).
    """
    shared = np.intersect1d(variant_block, baseline_block)
    logs = np.array(
        [math.log(np.median(baseline[baseline_block == b]) / np.median(variant[variant_block == b])) for b in shared]
    )
    value = math.exp(logs.mean())
    if len(logs) < 2:
        return Ratio(value=value, low=0.0, high=math.inf)
    half = float(scipy.stats.t.ppf((1 + LEVEL) / 2, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs)))
    return Ratio(value=value, low=value * math.exp(-half), high=value * math.exp(half))


def unpaired_ratio(over: Sequence[float], under: Sequence[float]) -> Ratio:
    """The ratio of two groups' geometric means, with Welch's t interval over their logarithms (Welch 1947).

    Each group holds independent medians in seconds: of sessions, or of one session's blocks. A group of one
    gives no interval (0 to infinity).
    """
    a, b = np.log(np.asarray(over, float)), np.log(np.asarray(under, float))
    value = math.exp(a.mean() - b.mean())
    if min(len(a), len(b)) < 2:
        return Ratio(value=value, low=0.0, high=math.inf)
    if a.var() + b.var() == 0:
        return Ratio(value=value, low=value, high=value)
    interval = scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval(LEVEL)
    return Ratio(value=value, low=math.exp(interval.low), high=math.exp(interval.high))


def verdict(ratio: Ratio, tolerance: float = TOLERANCE) -> str:
    """BETTER, WORSE or SAME, from the ratio of new over old latency; a relative change below `tolerance` is SAME."""
    if ratio.low > 1 and ratio.value > 1 + tolerance:
        return WORSE
    if ratio.high < 1 and ratio.value < 1 - tolerance:
        return BETTER
    return SAME


def wilson(hits: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (Wilson 1927), both ends between 0 and 1."""
    interval = scipy.stats.binomtest(hits, total).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """A variant's accuracy minus the baseline's on the same images, in percentage points."""

    points: float
    low: float  # 95 % interval, paired bootstrap
    high: float
    p: float  # p-value of McNemar's exact test: how often equally good models would differ at least this much

    @property
    def indistinguishable(self) -> bool:
        """Whether the difference could be chance at the 5 % level."""
        return self.p >= 1 - LEVEL


def paired_difference(variant: np.ndarray, baseline: np.ndarray, seed: int = 0) -> PairedDifference:
    """Compare which images two models get right, bool [N] each, image by image.

    McNemar's exact test (McNemar 1947) looks at the images that exactly one model gets right; the interval is the
    percentile bootstrap over images. Where no image differs, the interval reaches as far as `least_loss_shown` in both
    directions.
    """
    total, gained, lost = len(variant), int((variant & ~baseline).sum()), int((~variant & baseline).sum())
    points = 100 * (gained - lost) / total
    if gained + lost == 0:
        limit = least_loss_shown(total)
        return PairedDifference(points=0.0, low=-limit, high=limit, p=1.0)
    shares = [gained / total, lost / total, (total - gained - lost) / total]
    drawn = np.random.default_rng(seed).multinomial(total, shares, RESAMPLES)
    low, high = np.percentile(100 * (drawn[:, 0] - drawn[:, 1]) / total, [2.5, 97.5])
    p = float(scipy.stats.binomtest(gained, gained + lost, 0.5).pvalue)
    return PairedDifference(points=points, low=float(low), high=float(high), p=p)


def selection_half(labels: np.ndarray, seed: int) -> np.ndarray:
    """Which images recipes are chosen on, bool [N]: every other one of each label, in an order drawn with the seed."""
    order = np.lexsort((np.random.default_rng(seed).random(len(labels)), labels))
    chosen = np.zeros(len(labels), bool)
    chosen[order[::2]] = True
    return chosen


def least_loss_shown(images: int) -> float:
    """The smallest loss of accuracy, in points, that so many images can exclude, even where none differs.

    It is the exact 97.5 % upper limit of the share of images that differ.
    """
    return 100 * (1 - ((1 - LEVEL) / 2) ** (1 / images))


def images_for(points: float) -> int:
    """The least number of images that can exclude a loss of so many points; 0 for no points, as no number can."""
    return math.ceil(math.log((1 - LEVEL) / 2) / math.log(1 - min(points, 99.9) / 100)) if points > 0 else 0


def is_hopeless(right: np.ndarray, acceptable: float, margin: float, error: float = 0.01) -> bool:
    """Whether accuracy is below what is acceptable, by Wald's sequential probability ratio test (Wald 1945).

    `right`: bool [n], which images so far are right; `acceptable`: the least acceptable accuracy, 0 to 1. The test
    compares it with the alternative `acceptable - margin`. It may be repeated as images come in: an acceptable accuracy
    is ever called hopeless with a probability of about `error` at most.
    """
    good, bad = min(max(acceptable, 1e-6), 1 - 1e-6), min(max(acceptable - margin, 1e-6), 1 - 1e-6)
    hits, misses = int(right.sum()), int((~right).sum())
    evidence = hits * math.log(bad / good) + misses * math.log((1 - bad) / (1 - good))
    return evidence >= math.log((1 - error) / error)


def spread_percent(groups: Sequence[Sequence[float]]) -> float | None:
    """Pooled standard deviation of times within groups, in percent; None where no group has two values.

    It is that of the times' natural logarithms, times 100.
    """
    logs = [np.log(np.asarray(group, float)) for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in logs)
    if not freedom:
        return None
    return 100 * math.sqrt(sum(float(((g - g.mean()) ** 2).sum()) for g in logs) / freedom)


def pareto_front(points: list[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, gain) that no other point dominates, by rising cost."""
    front: list[int] = []
    best = -math.inf
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[index][1] > best:
            front.append(index)
            best = points[index][1]
    return front
