"""The only clock of pqbench: host monotonic time around one call, host array in, host array out.

Several engines are measured interleaved in blocks, A B C C B A ..., so that a drift of the machine
meets all of them alike. The first calls after each switch are discarded.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pqbench.runtime.v1.runtime_pb2 import DeviceTime, EngineTiming, MeasureSettings
from pqbench_wire.errors import InvalidInput

Call = Callable[[], object]
STABLE_WINDOWS = 3  # the last windows whose medians must agree
MAX_SECONDS = 3600
MAX_WINDOWS = 1000
MAX_CALLS = 2_000_000  # timed calls of one engine: 16 MB of samples
RESAMPLES = 1000  # of the bootstrap


@dataclass(kw_only=True)
class Samples:
    """The raw samples of one engine, in order."""

    latency: list[float] = field(default_factory=list)  # seconds
    start: list[float] = field(default_factory=list)  # seconds since the measurement began
    block: list[int] = field(default_factory=list)
    first_call: float = 0.0  # seconds
    medians: list[float] = field(default_factory=list)  # of each block, seconds
    device: dict[str, list[float]] = field(default_factory=dict)  # parts by the device's clock, seconds


def check_settings(settings: MeasureSettings) -> None:
    """Raise InvalidInput for settings that cannot give a result."""
    if settings.windows < STABLE_WINDOWS:
        raise InvalidInput(f"windows must be at least {STABLE_WINDOWS}, got {settings.windows}")
    if not 0 < settings.min_seconds <= settings.max_seconds <= 3600:
        raise InvalidInput(
            f"0 < min_seconds <= max_seconds <= 3600 must hold, got {settings.min_seconds} and {settings.max_seconds}"
        )
    if not 0 <= settings.warmup_seconds <= MAX_SECONDS or settings.windows > MAX_WINDOWS:
        raise InvalidInput(f"warmup_seconds must be 0 to {MAX_SECONDS}, windows at most {MAX_WINDOWS}")
    if max(settings.min_iterations, settings.warmup_iterations, settings.discard) > MAX_CALLS:
        raise InvalidInput(f"iterations and discard must be at most {MAX_CALLS}")
    if not 0 < settings.stability < 1:
        raise InvalidInput(f"stability is a share between 0 and 1, got {settings.stability}")


def measure(
    calls: Sequence[Call], settings: MeasureSettings, progress: Callable[[float], None] = lambda _: None
) -> list[Samples]:
    """Warm up and time each call, interleaved, until all are stable or `max_seconds` are over.

    The garbage collector rests meanwhile. `progress` is called between blocks.
    """
    check_settings(settings)
    gc.collect()
    gc.disable()
    try:
        return _interleaved(calls, settings, progress)
    finally:
        gc.enable()


def _interleaved(calls: Sequence[Call], settings: MeasureSettings, progress: Callable[[float], None]) -> list[Samples]:
    samples = [Samples() for _ in calls]
    for call, own in zip(calls, samples, strict=True):
        _warm_up(call, own, settings)
    begin, block, order = time.perf_counter(), 0, list(range(len(calls)))
    block_seconds = settings.min_seconds / settings.windows
    block_calls = -(-settings.min_iterations // settings.windows)
    longest = settings.max_seconds * len(calls)
    while True:
        for index in order:
            switched = len(calls) > 1 and not (block and index == order[0])
            _block(calls[index], samples[index], block, begin, block_seconds, block_calls, settings.discard * switched)
        block, order = block + 1, order[::-1]
        elapsed = time.perf_counter() - begin
        progress(min(1.0, block / settings.windows))
        enough = block >= settings.windows
        if enough and (all(is_stable(s, settings) for s in samples) or elapsed >= longest):
            return samples
        if max(len(s.latency) for s in samples) > MAX_CALLS:
            return samples


def _warm_up(call: Call, own: Samples, settings: MeasureSettings) -> None:
    begin = time.perf_counter()
    call()
    own.first_call = time.perf_counter() - begin
    count = 1
    while count < settings.warmup_iterations or time.perf_counter() - begin < settings.warmup_seconds:
        call()
        count += 1


def _block(call: Call, own: Samples, block: int, begin: float, seconds: float, least: int, discard: int) -> None:
    for _ in range(discard):
        call()
    clock, device_times = time.perf_counter, getattr(call, "device_times", None)
    latency: list[float] = []
    start: list[float] = []
    end = clock() + seconds
    while True:
        before = clock()
        call()
        after = clock()
        latency.append(after - before)
        start.append(before - begin)
        if device_times is not None:
            for part, seconds_of in device_times().items():
                own.device.setdefault(part, []).append(seconds_of)
        if after >= end and len(latency) >= least:
            break
    own.latency += latency
    own.start += start
    own.block += [block] * len(latency)
    own.medians.append(float(np.median(latency)))


def is_stable(samples: Samples, settings: MeasureSettings) -> bool:
    """Whether the last windows' medians lie within `stability` of their mean."""
    return len(samples.medians) >= STABLE_WINDOWS and _spread(samples) <= settings.stability


def _spread(samples: Samples) -> float:
    last = samples.medians[-STABLE_WINDOWS:]
    return (max(last) - min(last)) / float(np.mean(last))


def summarise(samples: Samples, settings: MeasureSettings, load_seconds: float) -> EngineTiming:
    """Statistics of one engine's samples, in seconds; percentiles interpolate linearly."""
    latency = np.asarray(samples.latency)
    low, high = median_interval(latency)
    p90, p95, p99, p999 = np.percentile(latency, [90, 95, 99, 99.9])
    stable = is_stable(samples, settings)
    return EngineTiming(
        count=len(latency),
        mean=latency.mean(),
        std=latency.std(ddof=1) if len(latency) > 1 else 0.0,
        min=latency.min(),
        median=np.median(latency),
        p90=p90,
        p95=p95,
        p99=p99,
        p999=p999,
        max=latency.max(),
        median_low=low,
        median_high=high,
        stable=stable,
        unstable_reason="" if stable else _why(samples, settings),
        load_seconds=load_seconds,
        first_call_seconds=samples.first_call,
        device={part: device_time(values) for part, values in samples.device.items()},
    )


def device_time(values: Sequence[float]) -> DeviceTime:
    """Statistics of one part of the calls by the device's clock, in seconds."""
    median, p90, p99 = np.percentile(values, [50, 90, 99])
    return DeviceTime(mean=float(np.mean(values)), median=median, p90=p90, p99=p99)


def median_interval(latency: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the median (Efron 1979), calls taken as independent.

    A resample's median is the order statistic whose rank is binomial(n, 1/2), so ranks are drawn
    instead of n x 1000 values.
    """
    ordered = np.sort(latency)
    ranks = np.random.default_rng(seed).binomial(len(ordered), 0.5, RESAMPLES)
    low, high = np.percentile(ordered[np.minimum(ranks, len(ordered) - 1)], [2.5, 97.5])
    return float(low), float(high)


def _why(samples: Samples, settings: MeasureSettings) -> str:
    steps = np.sign(np.diff(samples.medians[-STABLE_WINDOWS - 1 :]))
    kind = "drift" if abs(steps.sum()) == len(steps) else "noise"
    spread = f"the last {STABLE_WINDOWS} windows' medians differ by {_spread(samples):.1%}"
    return f"{kind}: {spread}, over {settings.stability:.1%}"
