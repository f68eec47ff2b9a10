"""A stand-in for NVML's binding: one board, whose energy grows and whose throttling a test can ask for."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

NVML_SUCCESS, NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 0, 1, 2, 0
BUS_ID = b"0000:0F:00.0"


class NVMLError(Exception):
    """What NVML raises."""


class NVMLError_NotSupported(NVMLError): ...


class NVMLError_NoPermission(NVMLError): ...


class NVMLError_FunctionNotFound(NVMLError): ...


def nvmlInit() -> None: ...


def nvmlSystemGetDriverVersion() -> str:
    return "580.65.06"


def nvmlDeviceGetHandleByPciBusId(bus_id: bytes) -> str:
    assert bus_id == BUS_ID, bus_id
    return "board"


def nvmlDeviceGetName(handle: str) -> str:
    return "Emulated GPU"


def nvmlDeviceGetMigMode(handle: str) -> list[int]:
    return [1, 1] if os.environ.get("EMULATED_MIG") else [0, 0]


def nvmlDeviceGetUUID(handle: str) -> str:
    return "GPU-emulated"


def nvmlDeviceGetTotalEnergyConsumption(handle: str) -> int:
    return int(time.monotonic() * 100_000)  # millijoules at 100 W


def nvmlDeviceGetFieldValues(handle: str, fields: list[int]) -> list[SimpleNamespace]:
    return [SimpleNamespace(nvmlReturn=NVML_SUCCESS, value=SimpleNamespace(uiVal=100_000)) for _ in fields]


def nvmlDeviceGetClockInfo(handle: str, kind: int) -> int:
    return 1500


def nvmlDeviceGetTemperature(handle: str, kind: int) -> int:
    raise NVMLError_NotSupported("not supported")


def nvmlDeviceGetMemoryInfo(handle: str) -> SimpleNamespace:
    return SimpleNamespace(used=1 << 30)


def nvmlDeviceGetViolationStatus(handle: str, policy: int) -> SimpleNamespace:
    share = float(os.environ.get("EMULATED_POWER_CAP", "0")) if policy == 0 else 0.0
    return SimpleNamespace(violationTime=int(share * time.monotonic() * 1e9))


def nvmlDeviceGetEnforcedPowerLimit(handle: str) -> int:
    return 300_000


def nvmlDeviceGetCurrentClocksThrottleReasons(handle: str) -> int:
    return int(os.environ.get("EMULATED_THROTTLING", "1"))  # 1: idle, which is no reason
