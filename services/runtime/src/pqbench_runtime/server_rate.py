"""The server scenario: the rate that is asked for, or the highest that keeps the bound of its 99th percentile."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pqbench.runtime.v1.runtime_pb2 import MeasureSettings, Probe, ServerTiming
from pqbench_runtime import scenarios
from pqbench_runtime.scenarios import Block, Instances
from pqbench_runtime.stability import WINDOWS

PROBES = 7  # bisections of the server's rate: it is found to within a hundredth of what the engine can do
PROBE_CALLS = 300  # wanted for a 99th percentile
LEAST_CALLS = 100  # of fewer the 99th percentile is the maximum
TRIES = 3  # to confirm the rate that was found
BACK_OFF = 0.95
MAX_SLIP = 0.1  # of the 99th percentile, by which the generator may be late
MAX_BEHIND = 0.2  # of the arrivals' time, for which the queue may take to empty: beyond, it only grows


def serve(pool: ThreadPoolExecutor, instances: Instances, settings: MeasureSettings) -> tuple[Block, ServerTiming]:
    """The calls of the run that counts, and what is said of it, the probes of the rate included."""
    rng = np.random.default_rng(settings.seed)
    rate, probes = (settings.rate, []) if settings.rate else _highest_rate(pool, instances, settings, rng)
    for _ in range(TRIES):
        seconds = _seconds(settings, rate, settings.min_seconds)
        block = scenarios.server(pool, instances, scenarios.poisson(rate, seconds, rng))
        found = _server_timing(block, rate, settings)
        probes.append(Probe(rate=rate, p99=_p99(block), met=found.met))
        if found.met or settings.rate:
            break
        rate *= BACK_OFF
    found.probes.extend(probes)
    return block, found


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
