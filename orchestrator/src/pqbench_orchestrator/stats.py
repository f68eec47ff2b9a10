"""Statistics over raw samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A ratio with its 95 % interval."""

    value: float
    low: float
    high: float


def paired_speedup(
    variant: np.ndarray, variant_block: np.ndarray, baseline: np.ndarray, baseline_block: np.ndarray
) -> Ratio:
    """Baseline's over variant's median latency, both measured interleaved in numbered blocks.

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
    half = float(stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs)))
    return Ratio(value=value, low=value * math.exp(-half), high=value * math.exp(half))


def pareto_front(points: list[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, gain) that no other beats in both, by rising cost."""
    front: list[int] = []
    best = -math.inf
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[index][1] > best:
            front.append(index)
            best = points[index][1]
    return front
