"""The only clock of pqbench: host monotonic time around one call, host array in, host array out.

Several engines are measured interleaved in blocks, A B C C B A ..., so that a drift of the machine
meets all of them alike. The first calls after each switch are discarded.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate

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
LEAST_WINDOWS = 6  # the fewest whose medians give an interval of 95 %
ALPHA = 0.05
PROBES = 7  # bisections of the server's rate: it is found to within a hundredth of what the engine can do
PROBE_CALLS = 300  # wanted for a 99th percentile
LEAST_CALLS = 100  # of fewer the 99th percentile is the maximum
TRIES = 3  # to confirm the rate that was found
BACK_OFF = 0.95
MAX_SLIP = 0.1  # of the 99th percentile, by which the generator may be late
MAX_BEHIND = 0.2  # of the arrivals' time, for which the queue may take to empty: beyond, it only grows
Instances = Sequence[Call]  # of one engine, which work at the same time
# The server's engines are warmed up as offline.
BLOCKS = {
    SCENARIO_MULTI_STREAM: scenarios.multi_stream,
    SCENARIO_OFFLINE: scenarios.offline,
    SCENARIO_SERVER: scenarios.offline,
}
Run = Callable[[Instances, float, int], Block]  # instances, seconds, least calls


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
    if settings.windows < LEAST_WINDOWS:
        raise InvalidInput(f"windows must be at least {LEAST_WINDOWS}, got {settings.windows}")
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
    samples, begin = [Samples() for _ in engines], clock()
    gc.collect()
    gc.disable()
    try:
        with ThreadPoolExecutor(max(len(instances) for instances in engines)) as pool:
            run = partial(BLOCKS.get(settings.scenario, scenarios.single_stream), pool)
            for instances in engines:
                _warm_up(run, instances, settings)
            if settings.scenario == SCENARIO_SERVER:
                _one_by_one(pool, engines, samples, settings, progress, begin)
            else:
                _interleaved(run, engines, samples, settings, progress, begin)
        return samples
    finally:
        gc.enable()


def run_for(instances: Instances, settings: MeasureSettings, seconds: float, rate: float) -> int:
    """Call an engine as the scenario says, without keeping times, and say how often; `rate`: the server's."""
    with ThreadPoolExecutor(len(instances)) as pool:
        if settings.scenario == SCENARIO_SERVER:
            arrivals = scenarios.poisson(rate, seconds, np.random.default_rng(settings.seed))
            return scenarios.server(pool, instances, arrivals).calls
        return BLOCKS.get(settings.scenario, scenarios.single_stream)(pool, instances, seconds, 1).calls


def _warm_up(run: Run, instances: Instances, settings: MeasureSettings) -> None:
    if settings.warmup_seconds or settings.warmup_iterations:
        run(instances, settings.warmup_seconds, settings.warmup_iterations * len(instances))


def _interleaved(
    run: Run,
    engines: Sequence[Instances],
    samples: list[Samples],
    settings: MeasureSettings,
    progress: Callable[[float], None],
    begin: float,
) -> None:
    end = clock() + settings.max_seconds * len(engines)
    seconds, least = settings.min_seconds / settings.windows, -(-settings.min_iterations // settings.windows)
    block, order = 0, list(range(len(engines)))
    while True:
        for index in order:
            if settings.discard and len(engines) > 1:
                run(engines[index], 0.0, settings.discard * len(engines[index]))
            _add(samples[index], block, begin, run(engines[index], seconds, least))
        block, order = block + 1, order[::-1]
        progress(min(1.0, block / settings.windows))
        enough = block >= settings.windows
        if enough and (all(is_stable(s.medians, settings) for s in samples) or clock() >= end):
            return
        if max(len(s.latency) for s in samples) > MAX_CALLS:
            return


def _one_by_one(
    pool: ThreadPoolExecutor,
    engines: Sequence[Instances],
    samples: list[Samples],
    settings: MeasureSettings,
    progress: Callable[[float], None],
    begin: float,
) -> None:
    for index, (instances, own) in enumerate(zip(engines, samples, strict=True)):
        rng = np.random.default_rng(settings.seed)
        rate, probes = (settings.rate, []) if settings.rate else _highest_rate(pool, instances, settings, rng)
        for _ in range(TRIES):
            seconds = _seconds(settings, rate, settings.min_seconds)
            block = scenarios.server(pool, instances, scenarios.poisson(rate, seconds, rng))
            progress((index + 1) / len(engines))
            verdict = _server_timing(block, rate, settings)
            probes.append(Probe(rate=rate, p99=_p99(block), met=verdict.met))
            if verdict.met or settings.rate:
                break
            rate *= BACK_OFF
        verdict.probes.extend(probes)
        own.server = verdict
        _add_windows(own, begin, block, settings.windows)


def _seconds(settings: MeasureSettings, rate: float, least: float) -> float:
    """For as many calls as a 99th percentile wants, within `max_seconds`."""
    return min(settings.max_seconds, max(least, max(PROBE_CALLS, settings.min_iterations) / rate))


def _highest_rate(
    pool: ThreadPoolExecutor, instances: Instances, settings: MeasureSettings, rng: np.random.Generator
) -> tuple[float, list[Probe]]:
    """By bisection, between nothing and what the engine does without a pause."""
    full = scenarios.offline(pool, instances, settings.min_seconds / settings.windows, len(instances) * WINDOWS)
    low, high, probes = 0.0, full.calls / full.seconds, []
    for _ in range(PROBES):
        rate = (low + high) / 2
        seconds = _seconds(settings, rate, settings.min_seconds / settings.windows)
        block = scenarios.server(pool, instances, scenarios.poisson(rate, seconds, rng))
        met = _keeps_up(block, rate) and _p99(block) <= settings.p99_seconds
        probes.append(Probe(rate=rate, p99=_p99(block), met=met))
        low, high = (rate, high) if met else (low, rate)
    return low or high, probes


def _server_timing(block: Block, rate: float, settings: MeasureSettings) -> ServerTiming:
    slip = float(np.percentile(block.slip, 99)) if block.slip else 0.0
    reason = ""
    if not _keeps_up(block, rate):
        reason = f"the engine cannot keep up: it served {block.calls / block.seconds:.4g} calls a second of {rate:.4g}"
    elif block.calls < LEAST_CALLS:
        reason = f"{block.calls} calls in max_seconds are too few for a 99th percentile, which takes {LEAST_CALLS}"
    elif slip > MAX_SLIP * _p99(block):
        reason = f"the generator was late by {slip * 1e3:.3f} ms (99th percentile)"
    return ServerTiming(
        rate=rate,
        slip_p99=slip,
        valid=not reason,
        invalid_reason=reason,
        met=_keeps_up(block, rate) and (not settings.p99_seconds or _p99(block) <= settings.p99_seconds),
    )


def _keeps_up(block: Block, rate: float) -> bool:
    return block.behind <= MAX_BEHIND or block.calls / block.seconds >= rate


def _p99(block: Block) -> float:
    return float(np.percentile(block.latency, 99))


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
    low, high = median_interval(samples.medians)
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


def median_interval(medians: Sequence[float]) -> tuple[float, float]:
    """Interval of the median from the blocks' medians, without a distribution: at least 95 % from six blocks on.

    A block's calls share its noise, so blocks, not calls, are the independent observations. The ends are order
    statistics whose ranks are those of the sign test (Conover, Practical Nonparametric Statistics, 3.2).
    """
    ordered, count = sorted(medians), len(medians)
    misses = accumulate(math.comb(count, rank) / 2 ** (count - 1) for rank in range(count // 2))
    rank = max(0, sum(miss <= ALPHA for miss in misses) - 1)
    return ordered[rank], ordered[-1 - rank]
