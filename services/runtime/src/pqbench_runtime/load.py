"""What else the machine does while something is measured: other processes, the hypervisor, the clocks."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from pqbench.runtime.v1.runtime_pb2 import LoadReading

STAT = Path("/proc/stat")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class _Moment:
    at: float
    busy: float  # core-seconds of all processes since the system started
    stolen: float
    own: float  # core-seconds of this process


class LoadMeter:
    """Reads the kernel's counters; what a reading says is of the time since the one before."""

    def __init__(self) -> None:
        self._begin = self._last = _now()

    def read(self) -> LoadReading:
        """Mean numbers of cores that others used since the last reading."""
        before, now = self._last, _now()
        self._last = now
        spent = max(now.at - before.at, 1e-9)
        others = (now.busy - before.busy) - (now.own - before.own)
        made = LoadReading(
            seconds=now.at - self._begin.at,
            foreign_cores=max(0.0, others / spent),
            stolen_cores=max(0.0, (now.stolen - before.stolen) / spent),
        )
        if (mhz := core_mhz()) is not None:
            made.mhz = mhz
        return made


def core_mhz() -> float | None:
    """Mean clock of the cores, where the kernel tells."""
    paths = list(Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    if paths:
        return sum(int(path.read_text()) for path in paths) / len(paths) / 1000
    lines = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("cpu MHz")]
    return sum(float(line.partition(":")[2]) for line in lines) / len(lines) if lines else None


def _now() -> _Moment:
    user, nice, system, _, _, irq, softirq, stolen = (int(word) for word in STAT.read_text().split()[1:9])
    busy = (user + nice + system + irq + softirq) / TICKS
    return _Moment(at=time.perf_counter(), busy=busy, stolen=stolen / TICKS, own=time.process_time())
