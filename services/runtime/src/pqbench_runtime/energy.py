"""Energy of a call: an energy counter's joules over a run of some seconds, minus what idling would have used.

On a GPU the counter is NVML's of the board. On a CPU it is RAPL's of the packages, where the kernel lets it be read.
Where there is no counter, the energy is absent with the reason, never zero.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pqbench_runtime import gpu
from pqbench_wire.errors import Unavailable

POWERCAP = Path("/sys/class/powercap")
IDLE_SECONDS, IDLE_TIMES = 1.0, 3  # length and number of the readings of idle power
MICRO = 1e-6


@dataclass(frozen=True, kw_only=True)
class Meter:
    """A counter of joules; only the difference of two readings has a meaning."""

    source: str
    joules: Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Energy:
    """What one call uses beyond idling, and the idle power that was subtracted."""

    joules_per_call: float
    idle_watts: float


def meter(on_gpu: bool) -> Meter:
    """The energy counter of the GPU or the CPU. Raises Unavailable with the reason where there is none."""
    if not on_gpu:
        return _rapl()
    if not gpu.reading(0.0).HasField("energy_joules"):
        what = "a MIG slice has no energy counter of its own" if gpu.is_slice() else "this GPU has no energy counter"
        raise Unavailable(what)
    return Meter(source="NVML", joules=lambda: gpu.reading(0.0).energy_joules)


def idle_watts(counter: Meter, seconds: float = IDLE_SECONDS) -> float:
    """The idle power in watts, by this counter: the lowest of three readings, because clocks fall slowly after work."""
    return min(_watts(counter, seconds) for _ in range(IDLE_TIMES))


def _watts(counter: Meter, seconds: float) -> float:
    begin, before = time.perf_counter(), counter.joules()
    time.sleep(seconds)
    return (counter.joules() - before) / (time.perf_counter() - begin)


def of_call(counter: Meter, run: Callable[[], int], idle: float) -> Energy:
    """Energy of one call; `run` runs calls for some seconds and returns their number. `idle` is in watts.

    Raises Unavailable where the counter showed no more than idling uses.
    """
    begin, before = time.perf_counter(), counter.joules()
    calls = run()
    spent, used = time.perf_counter() - begin, counter.joules() - before
    if used <= idle * spent:
        raise Unavailable(f"{counter.source} counted no more than the idle machine uses, {idle:.1f} W")
    return Energy(joules_per_call=(used - idle * spent) / calls, idle_watts=idle)


def _rapl() -> Meter:
    """The sum of the packages' counters. Raises Unavailable where they cannot be read, or there are none.

    Other zones (a package's parts, or psys, the whole board) are left out: they count the same joules again.
    """
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
    """One package's counter, corrected for its wrapping around to zero (once between two readings)."""

    def __init__(self, folder: Path) -> None:
        self._path, self._wraps, self._last = folder / "energy_uj", 0, 0
        self._range = int((folder / "max_energy_range_uj").read_text())

    def joules(self) -> float:
        now = int(self._path.read_text())
        self._wraps += now < self._last
        self._last = now
        return (now + self._wraps * self._range) * MICRO
