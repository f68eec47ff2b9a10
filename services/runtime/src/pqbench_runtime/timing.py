"""The schedule of timed calls: warm-up, blocks, and when there are enough of them. `scenarios` times the calls.

Several engines are measured interleaved in blocks, A B C C B A ..., so that a drift of the machine affects all of them
alike. The first calls after each switch are discarded. The server scenario is not interleaved.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from pqbench.runtime.v1.runtime_pb2 import (
    SCENARIO_MULTI_STREAM,
    SCENARIO_OFFLINE,
    SCENARIO_SERVER,
    MeasureSettings,
    ServerTiming,
)
from pqbench_runtime import scenarios
from pqbench_runtime.scenarios import Block, Instances, clock
from pqbench_runtime.server_rate import serve
from pqbench_runtime.stability import is_stable
from pqbench_wire.errors import InvalidInput

MAX_SECONDS = 3600
MAX_WINDOWS = 1000
MAX_CALLS = 2_000_000  # timed calls of one engine: 16 MB of latencies
MAX_CONCURRENCY = 64
LEAST_WINDOWS = 6  # the fewest blocks whose medians give an interval of 95 %
# In the server scenario this is for warming up only, by offline calls.
BLOCKS = {
    SCENARIO_MULTI_STREAM: scenarios.multi_stream,
    SCENARIO_OFFLINE: scenarios.offline,
    SCENARIO_SERVER: scenarios.offline,
}
Run = Callable[[Instances, float, int], Block]  # instances, seconds, least calls


@dataclass(kw_only=True)
class Samples:
    """The raw samples of one engine, in the order of measurement."""

    latency: list[float] = field(default_factory=list)  # seconds
    start: list[float] = field(default_factory=list)  # seconds since the measurement began
    block: list[int] = field(default_factory=list)  # number of the block that each call belongs to
    medians: list[float] = field(default_factory=list)  # of each block, seconds
    device: dict[str, list[float]] = field(default_factory=dict)  # parts by the device's clock, seconds
    calls: int = 0  # calls of single instances
    busy: float = 0.0  # seconds that all blocks took
    server: ServerTiming | None = None


def check_settings(settings: MeasureSettings) -> None:
    """Raise InvalidInput for settings that are out of bounds or cannot give a result."""
    if settings.windows < LEAST_WINDOWS:
        raise InvalidInput(f"windows must be at least {LEAST_WINDOWS}, got {settings.windows}")
    if not 0 < settings.min_seconds <= settings.max_seconds <= MAX_SECONDS:
        raise InvalidInput(
            f"0 < min_seconds <= max_seconds <= {MAX_SECONDS} must hold, "
            f"got {settings.min_seconds} and {settings.max_seconds}"
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
        raise InvalidInput(f"rate * max_seconds must be at most {MAX_CALLS} calls, got a rate of {settings.rate:g}")


def measure(
    engines: Sequence[Instances], settings: MeasureSettings, progress: Callable[[float], None] = lambda _: None
) -> list[Samples]:
    """Warm up all engines and time them, interleaved, until all are stable or `max_seconds` for each are over.

    In the server scenario the engines are timed one after the other, because their queue must not start empty again and
    again. The garbage collector is off meanwhile. `progress` is called with the finished share after each round of
    blocks (server: each engine). Raises InvalidInput as `check_settings` does.
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
                for index, (instances, own) in enumerate(zip(engines, samples, strict=True)):
                    block, own.server = serve(pool, instances, settings)
                    progress((index + 1) / len(engines))
                    _add_windows(own, begin, block, settings.windows)
            else:
                _interleaved(run, engines, samples, settings, progress, begin)
        return samples
    finally:
        gc.enable()


def run_for(instances: Instances, settings: MeasureSettings, seconds: float, rate: float) -> int:
    """Call an engine as in the scenario for some seconds, without keeping times; returns the number of calls.

    `rate` is used in the server scenario only: calls that arrive each second.
    """
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


def _add(own: Samples, block: int, begin: float, added: Block) -> None:
    own.latency += added.latency
    own.start += [at - begin for at in added.start]
    own.block += [block] * len(added.latency)
    own.medians.append(float(np.median(added.latency)))
    own.calls += added.calls
    own.busy += added.seconds
    for part, values in added.device.items():
        own.device.setdefault(part, []).extend(values)


def _add_windows(own: Samples, begin: float, added: Block, windows: int) -> None:
    """Add one long block, cut into windows with equal numbers of calls (plus or minus one)."""
    for window, indices in enumerate(np.array_split(np.arange(len(added.latency)), windows)):
        if len(indices):
            part = Block(latency=[added.latency[i] for i in indices], start=[added.start[i] for i in indices])
            _add(own, window, begin, part)
    own.calls, own.busy, own.device = added.calls, added.seconds, added.device
