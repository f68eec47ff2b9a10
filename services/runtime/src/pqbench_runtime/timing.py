"""The only clock of pqbench: host monotonic time around one call, host array in, host array out.

Several engines are measured interleaved in blocks, A B C C B A ..., so that a drift of the machine
meets all of them alike. The first calls after each switch are discarded.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pqbench.runtime.v1.runtime_pb2 import (
    SCENARIO_MULTI_STREAM,
    SCENARIO_OFFLINE,
    SCENARIO_SERVER,
    DeviceTime,
    EngineTiming,
    MeasureSettings,
    Probe,
    ServerTiming,
)
from pqbench_runtime import scenarios
from pqbench_runtime.scenarios import Block, Call, clock
from pqbench_runtime.stability import WINDOWS, is_stable
from pqbench_wire.errors import InvalidInput

MAX_SECONDS = 3600
MAX_WINDOWS = 1000
MAX_CALLS = 2_000_000  # timed calls of one engine: 16 MB of samples
MAX_CONCURRENCY = 64
RESAMPLES = 1000  # of the bootstrap
PROBES = 7  # bisections of the server's rate: it is found to within a hundredth of what the engine can do
PROBE_CALLS = 300  # at least, for a 99th percentile
TRIES = 3  # to confirm the rate that was found
BACK_OFF = 0.95
MAX_SLIP = 0.1  # of the 99th percentile, by which the generator may be late
Instances = Sequence[Call]  # of one engine, which work at the same time
BLOCKS = {SCENARIO_MULTI_STREAM: scenarios.multi_stream, SCENARIO_OFFLINE: scenarios.offline}


@dataclass(kw_only=True)
class Samples:
    """The raw samples of one engine, in order."""

    latency: list[float] = field(default_factory=list)  # seconds
    start: list[float] = field(default_factory=list)  # seconds since the measurement began
    block: list[int] = field(default_factory=list)
    medians: list[float] = field(default_factory=list)  # of each block, seconds
    device: dict[str, list[float]] = field(default_factory=dict)  # parts by the device's clock, seconds
    calls: int = 0  # of single instances
    busy: float = 0.0  # seconds of all blocks
    server: ServerTiming | None = None


def check_settings(settings: MeasureSettings) -> None:
    """Raise InvalidInput for settings that cannot give a result."""
    if settings.windows < WINDOWS:
        raise InvalidInput(f"windows must be at least {WINDOWS}, got {settings.windows}")
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
    if settings.concurrency > MAX_CONCURRENCY:
        raise InvalidInput(f"concurrency must be at most {MAX_CONCURRENCY}, got {settings.concurrency}")
    if not 0 <= settings.energy_seconds <= MAX_SECONDS:
        raise InvalidInput(f"energy_seconds must be 0 to {MAX_SECONDS}, got {settings.energy_seconds}")
    if settings.scenario == SCENARIO_SERVER and not (settings.rate > 0 or settings.p99_seconds > 0):
        raise InvalidInput("the server scenario needs a rate, or p99_seconds to search the highest rate for")
    if settings.rate * settings.max_seconds > MAX_CALLS:
        raise InvalidInput(f"a rate of {settings.rate:g} calls a second is over {MAX_CALLS} calls")


def measure(
    engines: Sequence[Instances], settings: MeasureSettings, progress: Callable[[float], None] = lambda _: None
) -> list[Samples]:
    """Warm up and time each engine, interleaved, until all are stable or `max_seconds` are over.

    In the server scenario, where a queue must not start empty again and again, one engine after the other. The
    garbage collector rests meanwhile. `progress` is called between blocks.
    """
    check_settings(settings)
    gc.collect()
    gc.disable()
    try:
        samples = [_warmed_up(instances, settings) for instances in engines]
        if settings.scenario == SCENARIO_SERVER:
            _one_by_one(engines, samples, settings, progress)
        else:
            _interleaved(engines, samples, settings, progress)
        return samples
    finally:
        gc.enable()


def _interleaved(
    engines: Sequence[Instances], samples: list[Samples], settings: MeasureSettings, progress: Callable[[float], None]
) -> None:
    begin, block, order = clock(), 0, list(range(len(engines)))
    seconds, least = settings.min_seconds / settings.windows, -(-settings.min_iterations // settings.windows)
    longest = settings.max_seconds * len(engines)
    one_block = BLOCKS.get(settings.scenario, scenarios.single_stream)
    while True:
        for index in order:
            switched = len(engines) > 1 and not (block and index == order[0])
            for _ in range(settings.discard * switched):
                for call in engines[index]:
                    call()
            _add(samples[index], block, begin, one_block(engines[index], seconds, least))
        block, order = block + 1, order[::-1]
        progress(min(1.0, block / settings.windows))
        enough = block >= settings.windows
        if enough and (all(is_stable(s.medians, settings) for s in samples) or clock() - begin >= longest):
            return
        if max(len(s.latency) for s in samples) > MAX_CALLS:
            return


def _one_by_one(
    engines: Sequence[Instances], samples: list[Samples], settings: MeasureSettings, progress: Callable[[float], None]
) -> None:
    begin = clock()
    for index, (instances, own) in enumerate(zip(engines, samples, strict=True)):
        rng = np.random.default_rng(settings.seed)
        rate, probes = (settings.rate, []) if settings.rate else _highest_rate(instances, settings, rng)
        for _ in range(TRIES):
            block = scenarios.server(instances, scenarios.poisson(rate, settings.min_seconds, rng))
            progress((index + 1) / len(engines))
            verdict = _server_timing(block, rate, settings)
            probes.append(Probe(rate=rate, p99=_p99(block), met=verdict.met))
            if verdict.met or settings.rate:
                break
            rate *= BACK_OFF
        verdict.probes.extend(probes)
        own.server = verdict
        _add_windows(own, begin, block, settings.windows)


def _highest_rate(
    instances: Instances, settings: MeasureSettings, rng: np.random.Generator
) -> tuple[float, list[Probe]]:
    """By bisection, between nothing and what the engine does without a pause."""
    full = scenarios.offline(instances, settings.min_seconds / settings.windows, len(instances) * WINDOWS)
    low, high, probes = 0.0, full.calls / full.seconds, []
    for _ in range(PROBES):
        rate = (low + high) / 2
        seconds = min(settings.max_seconds, max(settings.min_seconds / settings.windows, PROBE_CALLS / rate))
        p99 = _p99(scenarios.server(instances, scenarios.poisson(rate, seconds, rng)))
        met = p99 <= settings.p99_seconds
        probes.append(Probe(rate=rate, p99=p99, met=met))
        low, high = (rate, high) if met else (low, rate)
    return low or high, probes


def _server_timing(block: Block, rate: float, settings: MeasureSettings) -> ServerTiming:
    slip = float(np.percentile(block.slip, 99)) if block.slip else 0.0
    valid = slip <= MAX_SLIP * _p99(block)
    return ServerTiming(
        rate=rate,
        slip_p99=slip,
        valid=valid,
        invalid_reason="" if valid else f"the generator was late by {slip * 1e3:.3f} ms (99th percentile)",
        met=not settings.p99_seconds or _p99(block) <= settings.p99_seconds,
    )


def _p99(block: Block) -> float:
    return float(np.percentile(block.latency, 99))


def _warmed_up(instances: Instances, settings: MeasureSettings) -> Samples:
    """No samples yet."""
    begin, count = clock(), 0
    while count < settings.warmup_iterations or clock() - begin < settings.warmup_seconds:
        for call in instances:
            call()
        count += 1
    return Samples()


def _add(own: Samples, block: int, begin: float, made: Block) -> None:
    own.latency += made.latency
    own.start += [at - begin for at in made.start]
    own.block += [block] * len(made.latency)
    own.medians.append(float(np.median(made.latency)))
    own.calls += made.calls
    own.busy += made.seconds
    for part, values in made.device.items():
        own.device.setdefault(part, []).extend(values)


def _add_windows(own: Samples, begin: float, made: Block, windows: int) -> None:
    """One long block, cut into windows of equally many calls."""
    for window, indices in enumerate(np.array_split(np.arange(len(made.latency)), windows)):
        if len(indices):
            part = Block(latency=[made.latency[i] for i in indices], start=[made.start[i] for i in indices])
            _add(own, window, begin, part)
    own.calls, own.busy, own.device = made.calls, made.seconds, made.device


def summarise(samples: Samples) -> EngineTiming:
    """Statistics of one engine's samples, in seconds; percentiles interpolate linearly."""
    latency = np.asarray(samples.latency)
    low, high = median_interval(latency)
    p90, p95, p99, p999 = np.percentile(latency, [90, 95, 99, 99.9])
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
        device={part: device_time(values) for part, values in samples.device.items()},
        calls_per_second=samples.calls / samples.busy if samples.busy else 0.0,
        server=samples.server,
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
