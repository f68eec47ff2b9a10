"""Statistics of one engine's samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from pqbench.runtime.v1.runtime_pb2 import DeviceTime, EngineTiming
from pqbench_runtime.timing import Samples

ALPHA = 0.05  # one minus the least coverage of an interval


def summarise(samples: Samples) -> EngineTiming:
    """Statistics of one engine's samples, in seconds; percentiles interpolate linearly.

    The median's interval comes from the blocks' medians; where calls have two modes, the median of all calls may lie
    outside it. The interval is then widened to hold it, which only adds coverage.
    """
    latency = np.asarray(samples.latency)
    median = np.median(latency)
    low, high = median_interval(samples.medians)
    p90, p95, p99, p999 = np.percentile(latency, [90, 95, 99, 99.9])
    return EngineTiming(
        count=len(latency),
        mean=latency.mean(),
        std=latency.std(ddof=1) if len(latency) > 1 else 0.0,
        min=latency.min(),
        median=median,
        p90=p90,
        p95=p95,
        p99=p99,
        p999=p999,
        max=latency.max(),
        median_low=min(low, median),
        median_high=max(high, median),
        device={part: device_time(values) for part, values in samples.device.items()},
        calls_per_second=samples.calls / samples.busy if samples.busy else 0.0,
        server=samples.server,
    )


def device_time(values: Sequence[float]) -> DeviceTime:
    """Statistics of one part of the calls by the device's clock, in seconds."""
    median, p90, p99 = np.percentile(values, [50, 90, 99])
    return DeviceTime(mean=float(np.mean(values)), median=median, p90=p90, p99=p99)


def median_interval(medians: Sequence[float]) -> tuple[float, float]:
    """Distribution-free interval of the median from the blocks' medians: at least 95 % from six blocks on.

    A block's calls share its noise, so blocks, not calls, are the independent observations. The ends are order
    statistics whose ranks are those of the sign test (Conover, Practical Nonparametric Statistics, 3.2).
    """
    ordered, count = sorted(medians), len(medians)
    misses = accumulate(math.comb(count, rank) / 2 ** (count - 1) for rank in range(count // 2))
    rank = max(0, sum(miss <= ALPHA for miss in misses) - 1)
    return ordered[rank], ordered[-1 - rank]
