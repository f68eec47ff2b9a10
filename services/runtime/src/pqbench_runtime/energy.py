"""Energy of a call: a counter over a run of some seconds, what the idle machine would have used subtracted.

On a GPU NVML's counter of the board, on a CPU RAPL's of the packages where the kernel lets it be read. What there
is no counter for is absent with its reason, never zero.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pqbench_runtime import gpu
from pqbench_wire.errors import Unavailable

POWERCAP = Path("/sys/class/powercap")
IDLE_SECONDS, IDLE_TIMES = 1.0, 3
MICRO = 1e-6


@dataclass(frozen=True, kw_only=True)
class Meter:
    """A counter of joules."""

    source: str
    joules: Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Energy:
    """What a call uses beyond the idle machine."""

    joules_per_call: float
    idle_watts: float


def meter(on_gpu: bool) -> Meter:
    """The counter for what an engine runs on. Raises Unavailable with the reason."""
    if not on_gpu:
        return _rapl()
    if not gpu.reading(0.0).HasField("energy_joules"):
        raise Unavailable("this GPU has no energy counter")
    return Meter(source="NVML", joules=lambda: gpu.reading(0.0).energy_joules)


def idle_watts(counter: Meter, seconds: float = IDLE_SECONDS) -> float:
    """The power of the machine while it does nothing: the lowest of some readings, because clocks fall slowly."""
    return min(_watts(counter, seconds) for _ in range(IDLE_TIMES))


def _watts(counter: Meter, seconds: float) -> float:
    begin, before = time.perf_counter(), counter.joules()
    time.sleep(seconds)
    return (counter.joules() - before) / (time.perf_counter() - begin)


def of_call(counter: Meter, run: Callable[[], int], idle: float) -> Energy:
    """`run` calls for some seconds and says how often. Raises Unavailable where that takes no more than idling."""
    begin, before = time.perf_counter(), counter.joules()
    calls = run()
    spent, used = time.perf_counter() - begin, counter.joules() - before
    if used <= idle * spent:
        raise Unavailable(f"{counter.source} counted no more than of the idle machine, {idle:.1f} W")
    return Energy(joules_per_call=(used - idle * spent) / calls, idle_watts=idle)


def _rapl() -> Meter:
    """Of the packages: other zones (a package's parts, or psys, the whole board) count the same joules again."""
    try:
        zones = sorted(POWERCAP.glob("intel-rapl:[0-9]*"))
        counters = [_Counter(path) for path in zones if (path / "name").read_text().startswith("package")]
        for counter in counters:
            counter.joules()
    except OSError as error:
        raise Unavailable(f"RAPL's counter cannot be read: {error.filename}: {error.strerror}") from error
    if not counters:
        raise Unavailable(f"the kernel has no RAPL counter ({POWERCAP}/intel-rapl:*)")
    return Meter(source="RAPL", joules=lambda: sum(counter.joules() for counter in counters))


class _Counter:
    """One package's counter, which starts again at zero now and then."""

    def __init__(self, folder: Path) -> None:
        self._path, self._wraps, self._last = folder / "energy_uj", 0, 0
        self._range = int((folder / "max_energy_range_uj").read_text())

    def joules(self) -> float:
        now = int(self._path.read_text())
        self._wraps += now < self._last
        self._last = now
        return (now + self._wraps * self._range) * MICRO
