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
IDLE_SECONDS = 2.0
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
    """The power of the machine while it does nothing, over some seconds."""
    begin, before = time.perf_counter(), counter.joules()
    time.sleep(seconds)
    return (counter.joules() - before) / (time.perf_counter() - begin)


def of_call(counter: Meter, call: Callable[[], object], seconds: float, idle: float) -> Energy:
    """Run a call over and over for some seconds, and divide."""
    begin, before, calls = time.perf_counter(), counter.joules(), 0
    while time.perf_counter() - begin < seconds:
        call()
        calls += 1
    spent, used = time.perf_counter() - begin, counter.joules() - before
    return Energy(joules_per_call=(used - idle * spent) / calls, idle_watts=idle)


def _rapl() -> Meter:
    packages = sorted(POWERCAP.glob("intel-rapl:[0-9]*"))
    packages = [path for path in packages if path.name.count(":") == 1]
    if not packages:
        raise Unavailable(f"the kernel has no RAPL counter ({POWERCAP}/intel-rapl:*)")
    counters = [_Counter(path) for path in packages]
    try:
        for counter in counters:
            counter.joules()
    except PermissionError as error:
        raise Unavailable(f"RAPL's counter may not be read: {error.filename}") from error
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
