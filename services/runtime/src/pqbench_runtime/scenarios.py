"""How calls follow each other: one function for each scenario of MLPerf Inference (Reddi et al. 2020) runs one block.

An engine is one or more instances: calls that run at the same time on the threads of a pool. The pool is kept for a
whole measurement, because new threads would be cold. A block lasts for at least `seconds` and `least` samples; in the
server scenario `arrivals` decide. All times are seconds on the host's clock, except `Block.device`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

Call = Callable[[], object]
Instances = Sequence[Call]  # the instances of one engine, which run at the same time
clock = time.perf_counter
OVERTIME = 1.5  # multiple of the last arrival's time after which no call is started: the engine cannot keep up
NEVER_SLEEP = 200e-6  # seconds before an arrival that are spent polling, because a sleeping thread wakes too late


@dataclass(kw_only=True)
class Block:
    """The samples of one block, ordered by their start."""

    latency: list[float] = field(default_factory=list)
    start: list[float] = field(default_factory=list)  # as `clock` has it; server: the scheduled arrival
    slip: list[float] = field(default_factory=list)  # server: how late idle instances began their calls, unordered
    behind: float = 0.0  # server: from the last arrival to the end of the last call, as a share of the arrivals' time
    device: dict[str, list[float]] = field(default_factory=dict)  # by the device's clock: compute, h2d, d2h
    seconds: float = 0.0  # from the begin of the block to the end of its last call
    calls: int = 0  # calls of single instances


def single_stream(pool: ThreadPoolExecutor, instances: Sequence[Call], seconds: float, least: int) -> Block:
    """The next call begins when the last has ended; the calls run on the caller's thread, not in the pool."""
    return _stream(instances[0], seconds, least)


def multi_stream(pool: ThreadPoolExecutor, instances: Sequence[Call], seconds: float, least: int) -> Block:
    """All instances begin together; a sample ends with the last of them. The device's times are not read."""
    block, begin = Block(), clock()
    while clock() < begin + seconds or len(block.latency) < least:
        before = clock()
        for done in [pool.submit(call) for call in instances]:
            done.result()
        block.latency.append(clock() - before)
        block.start.append(before)
    block.seconds, block.calls = clock() - begin, len(block.latency) * len(instances)
    return block


def offline(pool: ThreadPoolExecutor, instances: Sequence[Call], seconds: float, least: int) -> Block:
    """Every instance runs one call after the other; the block ends when all have ended their last call."""
    each, begin = -(-least // len(instances)), clock()
    blocks = [done.result() for done in [pool.submit(_stream, call, seconds, each) for call in instances]]
    return _merged(blocks, clock() - begin)


def server(pool: ThreadPoolExecutor, instances: Sequence[Call], arrivals: np.ndarray) -> Block:
    """Calls arrive at `arrivals` (ascending seconds since the begin); the next free instance takes the next call.

    Latency counts from the scheduled arrival, so that waiting for a free instance is part of it.
    """
    next_one, begin = itertools.count(), clock()
    work = [pool.submit(_serve, call, arrivals, next_one, begin) for call in instances]
    block = _merged([done.result() for done in work], clock() - begin)
    block.behind = block.seconds / float(arrivals[-1]) - 1
    return block


def _stream(call: Call, seconds: float, least: int) -> Block:
    device_times = getattr(call, "device_times", None)
    block, latency, start = Block(), [], []
    begin = clock()
    end = begin + seconds
    while True:
        before = clock()
        call()
        after = clock()
        latency.append(after - before)
        start.append(before)
        if device_times is not None:
            for part, spent in device_times().items():
                block.device.setdefault(part, []).append(spent)
        if after >= end and len(latency) >= least:
            break
    block.latency, block.start, block.calls, block.seconds = latency, start, len(latency), after - begin
    return block


def poisson(rate: float, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Arrival times of a Poisson process with `rate` arrivals a second, ascending up to `seconds`; at least one."""
    count = int(rate * seconds + 10 * np.sqrt(rate * seconds) + 10)
    times = rng.exponential(1 / rate, count).cumsum()
    return times[: max(1, int(np.searchsorted(times, seconds)))]


def _serve(call: Call, arrivals: np.ndarray, next_one: Iterator[int], begin: float) -> Block:
    block, end = Block(), begin + OVERTIME * float(arrivals[-1])
    while clock() < end and (index := next(next_one)) < len(arrivals):
        due = begin + float(arrivals[index])
        was_idle = _wait_until(due)
        began = clock()
        call()
        block.latency.append(clock() - due)
        block.start.append(due)
        if was_idle:
            block.slip.append(began - due)
    block.calls = len(block.latency)
    return block


def _wait_until(moment: float) -> bool:
    """Wait until `moment` on the clock; returns whether there was anything to wait for."""
    left = moment - clock()
    if left <= 0:
        return False
    if left > NEVER_SLEEP:
        time.sleep(left - NEVER_SLEEP)
    while clock() < moment:
        time.sleep(0)  # releases Python's global lock, which another instance may need
    return True


def _merged(blocks: Sequence[Block], seconds: float) -> Block:
    order = sorted(range(sum(len(b.start) for b in blocks)), key=[t for b in blocks for t in b.start].__getitem__)
    latency, start = ([value for b in blocks for value in values(b)] for values in (_latency, _start))
    device: dict[str, list[float]] = {}
    for part in {part for b in blocks for part in b.device}:
        values = [value for b in blocks for value in b.device.get(part, [])]
        device[part] = [values[i] for i in order]
    return Block(
        latency=[latency[i] for i in order],
        start=[start[i] for i in order],
        slip=[value for b in blocks for value in b.slip],
        device=device,
        seconds=seconds,
        calls=sum(b.calls for b in blocks),
    )


def _latency(block: Block) -> list[float]:
    return block.latency


def _start(block: Block) -> list[float]:
    return block.start
