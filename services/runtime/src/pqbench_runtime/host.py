"""What this machine is and how busy it is: for engine keys and environment records."""

from __future__ import annotations

import functools
import os
import platform
import time
from pathlib import Path

import numpy as np
import psutil

FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_int8",
    "amx_bf16",
    "amx_fp16",
    "asimd",
)


@functools.cache
def cpu_name() -> str:
    """Model name, instruction sets that decide kernels, and number of logical cores: what an engine is built for."""
    fields = _cpuinfo()
    flags = [flag for flag in FLAGS if flag in fields.get("flags", fields.get("Features", "")).split()]
    name = fields.get("model name", platform.processor() or platform.machine())
    return f"{name} [{' '.join(flags)}] x{os.cpu_count()}"


@functools.cache
def int8_saturates() -> bool:
    """Whether products of unsigned and signed INT8 values are added up in 16 bits: on x86 without VNNI and AMX."""
    flags = set(_cpuinfo().get("flags", "").split())
    return "ssse3" in flags and not flags & {"avx512_vnni", "avx_vnni", "amx_int8"}


def nvidia(driver: Path = Path("/proc/driver/nvidia")) -> str:
    """The driver's version and the models of all GPUs, as the kernel module reports them; "" without one.

    It does not load CUDA. It goes into the keys of kept results, so that those of another machine are not reused.
    """
    version = _read(driver / "version").partition("\n")[0]
    models = sorted(_read(path).partition("\n")[0] for path in driver.glob("gpus/*/information"))
    return " | ".join([version, *models]) if version else ""


def environment() -> dict[str, str]:
    """The machine's environment record; what cannot be read is absent."""
    record = {
        "cpu": cpu_name(),
        "cores_physical": str(psutil.cpu_count(logical=False) or ""),
        "cores_usable": str(len(os.sched_getaffinity(0))),
        "memory_bytes": str(psutil.virtual_memory().total),
        "os": platform.platform(),
        "python": platform.python_version(),
        "cpu_governor": _read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "cpu_affinity": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
        "container_image": os.environ.get("PQBENCH_IMAGE", ""),
    }
    return {key: value for key, value in record.items() if value}


@functools.cache
def copy_bytes_per_second(size: int = 64 << 20, times: int = 5) -> float:
    """How fast one thread copies memory, counting read and written bytes: the best of `times` copies."""
    source = np.ones(size, np.uint8)
    target = np.zeros(size, np.uint8)
    spent = []
    for _ in range(times):
        begin = time.perf_counter()
        np.copyto(target, source)
        spent.append(time.perf_counter() - begin)
    return 2 * size / min(spent)


def load_average() -> float:
    """Runnable processes, averaged over the last minute."""
    return os.getloadavg()[0]


def memory() -> int:
    """Bytes of this process's resident memory."""
    return _status("VmRSS")


def peak_memory() -> int:
    """Bytes of this process's largest resident memory since `forget_peak` (getrusage would count its parent's too)."""
    return _status("VmHWM")


def forget_peak() -> bool:
    """Set the peak back to the present size; false where the kernel does not let a process do so."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(field: str) -> int:
    status = dict(line.split(":", 1) for line in _read(Path("/proc/self/status")).splitlines())
    return int(status[field].split()[0]) * 1024


def _cpuinfo() -> dict[str, str]:
    first = _read(Path("/proc/cpuinfo")).partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _read(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""
