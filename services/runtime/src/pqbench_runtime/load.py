"""The machine's state during a measurement: load from other processes and the hypervisor, and the cores' clocks."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from pqbench.runtime.v1.runtime_pb2 import LoadReading

STAT = Path("/proc/stat")
CPUS = Path("/sys/devices/system/cpu")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class _Moment:
    at: float
    busy: float  # core-seconds of all processes since the system started
    stolen: float  # core-seconds that the hypervisor gave to others
    own: float  # core-seconds of this process


class LoadMeter:
    """Reads the kernel's counters; each reading is about the time since the one before."""

    def __init__(self) -> None:
        self._begin = self._last = _now()

    def read(self) -> LoadReading:
        """The mean numbers of cores that others used since the last reading, and the cores' clock now."""
        before, now = self._last, _now()
        spent = max(now.at - before.at, 1e-9)
        others = (now.busy - before.busy) - (now.own - before.own)
        found = LoadReading(
            seconds=now.at - self._begin.at,
            foreign_cores=max(0.0, others / spent),
            stolen_cores=max(0.0, (now.stolen - before.stolen) / spent),
        )
        if (mhz := core_mhz()) is not None:
            found.mhz = mhz
        self._last = _now()  # reading clocks takes milliseconds on some kernels, which the next reading leaves out
        return found


def core_mhz() -> float | None:
    """Mean clock in MHz of the cores that this process may use; None where the kernel reports no clocks.

    Without cpufreq it is the mean over all cores in /proc/cpuinfo. Offline cores report none and are left out.
    """
    paths = [CPUS / f"cpu{core}/cpufreq/scaling_cur_freq" for core in os.sched_getaffinity(0)]
    if clocks := [khz for path in paths if (khz := _number(path)) is not None]:
        return sum(clocks) / len(clocks) / 1000
    lines = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("cpu MHz")]
    return sum(float(line.partition(":")[2]) for line in lines) / len(lines) if lines else None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _now() -> _Moment:
    user, nice, system, _, _, irq, softirq, stolen = (int(word) for word in STAT.read_text().split()[1:9])
    busy = (user + nice + system + irq + softirq) / TICKS
    return _Moment(at=time.perf_counter(), busy=busy, stolen=stolen / TICKS, own=time.process_time())
