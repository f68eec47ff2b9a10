"""The server scenario: runs at the requested rate, or at the highest whose 99th percentile keeps its bound."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pqbench.runtime.v1.runtime_pb2 import MeasureSettings, Probe, ServerTiming
from pqbench_runtime import scenarios
from pqbench_runtime.scenarios import Block, Instances
from pqbench_runtime.stability import WINDOWS

PROBES = 7  # steps of the bisection: they find the rate to within a hundredth of the offline rate
PROBE_CALLS = 300  # calls that a 99th percentile should have
LEAST_CALLS = 100  # calls that it must have: of fewer, it depends on the slowest two only
TRIES = 3  # runs to confirm the rate that was found
BACK_OFF = 0.95  # factor on the rate after a run that did not confirm it
MAX_SLIP = 0.1  # share of the 99th percentile by which the load generator may be late
MAX_BEHIND = 0.2  # share of the arrivals' time that the queue may take to empty; if it takes longer, it only grows


def serve(pool: ThreadPoolExecutor, instances: Instances, settings: MeasureSettings) -> tuple[Block, ServerTiming]:
    """The block of calls that counts, and the rate, validity and probes of the run.

    Without a requested rate, the highest is searched first and then confirmed; each failed try lowers it by 5 %.
    """
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
    """The length of a run: `least` seconds, and enough calls for a 99th percentile, within `max_seconds`."""
    return min(settings.max_seconds, max(least, max(PROBE_CALLS, settings.min_iterations) / rate))


def _highest_rate(
    pool: ThreadPoolExecutor, instances: Instances, settings: MeasureSettings, rng: np.random.Generator
) -> tuple[float, list[Probe]]:
    """The highest rate that keeps the bound, by bisection between 0 and the engine's offline rate; and the probes."""
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
        reason = f"the engine cannot keep up: it served {block.calls / block.seconds:.4g} of {rate:.4g} calls/s"
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
