"""A GPU by NVML (NVIDIA's management library): name, driver, and its state during a measurement.

Readings are of the whole board; of a MIG slice, which shares its board with others, there are none. What a board or a
driver does not report is absent, never zero.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pqbench.runtime.v1.runtime_pb2 import GpuReading
from pqbench_runtime import cuda
from pqbench_wire.errors import Unavailable

MILLI = 1e-3
MIG_ON = 1  # NVML_DEVICE_MIG_ENABLE
INSTANT_POWER = 186  # NVML_FI_DEV_POWER_INSTANT; nvmlDeviceGetPowerUsage averages over a second
# Bits of the reasons for lower clocks that spoil a timing; idling and application clocks are not among them.
THROTTLING = {0x4: "power cap", 0x8: "hardware slowdown", 0x20: "software thermal", 0x40: "hardware thermal",
              0x80: "power brake"}  # fmt: skip
VIOLATIONS = {0: "power cap", 1: "hardware thermal"}  # NVML_PERF_POLICY_POWER, _THERMAL
NANO = 1e-9


@functools.cache
def nvml_binding() -> Any:
    """NVML's initialised Python binding. Raises Unavailable where it is missing or cannot be initialised."""
    try:
        import pynvml
    except ImportError as error:
        raise Unavailable("NVML's binding is missing: pip install nvidia-ml-py") from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise Unavailable(f"NVML cannot be used: {error}") from error
    return pynvml


@functools.cache
def board(bus_id: str) -> Any:
    """NVML's handle of the device at a PCI bus id: indices differ between CUDA and NVML."""
    return nvml_binding().nvmlDeviceGetHandleByPciBusId(bus_id.encode())


def is_present() -> bool:
    """Whether the operating system has nodes of NVIDIA's driver, or those of Windows for any GPU.

    A device that is present need not be usable.
    """
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def driver() -> str:
    """The version of NVIDIA's driver."""
    return _text(nvml_binding().nvmlSystemGetDriverVersion())


def is_slice() -> bool:
    """Whether the current CUDA device is a MIG slice: on a board in MIG mode, CUDA uses nothing else."""
    mode = _supported(lambda: nvml_binding().nvmlDeviceGetMigMode(board(cuda.bus_id())))
    return mode is not None and mode[0] == MIG_ON


def device() -> str:
    """The current CUDA device: name, compute capability and driver's major version, on which an engine depends."""
    name = cuda.device_name() if is_slice() else _text(nvml_binding().nvmlDeviceGetName(board(cuda.bus_id())))
    return f"{name} [{cuda.compute_capability()}] driver {driver().partition('.')[0]}"


def uuid() -> str:
    """The current CUDA device's UUID."""
    return _text(nvml_binding().nvmlDeviceGetUUID(board(cuda.bus_id())))


def reading(seconds: float) -> GpuReading:
    """The state of the current CUDA device now, which is `seconds` after the measurement began."""
    nvml, handle = nvml_binding(), board(cuda.bus_id())
    found = GpuReading(seconds=seconds)
    if is_slice():
        return found
    asked: dict[str, Callable[[], Any]] = {
        "energy_joules": lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) * MILLI,
        "power_watts": lambda: _power(nvml, handle) * MILLI,
        "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        "memory_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
        "celsius": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
        "memory_bytes": lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used,
    }
    for name, ask in asked.items():
        if (value := _supported(ask)) is not None:
            setattr(found, name, value)
    mask = _supported(lambda: _throttle_mask(nvml, handle)) or 0
    found.throttled.extend(text for bit, text in THROTTLING.items() if mask & bit)
    for policy, text in VIOLATIONS.items():
        held = _supported(functools.partial(nvml.nvmlDeviceGetViolationStatus, handle, policy))
        if held is not None:
            found.held_seconds[text] = held.violationTime * NANO
    return found


def memory_in_use() -> int | None:
    """Bytes of the board's memory in use by all processes, this one's CUDA context included; None if not reported."""
    if is_slice():
        return None
    cuda.Stream()  # creates the CUDA context, so that it does not count as an engine's memory
    nvml, handle = nvml_binding(), board(cuda.bus_id())
    used = _supported(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used)
    return None if used is None else int(used)


def _power(nvml: Any, handle: Any) -> int:
    """Power in milliwatts at this instant or, where the driver has only that, its average over a second."""
    try:
        field = nvml.nvmlDeviceGetFieldValues(handle, [INSTANT_POWER])[0]
    except nvml.NVMLError:  # an old driver does not have the function
        return int(nvml.nvmlDeviceGetPowerUsage(handle))
    return int(field.value.uiVal if field.nvmlReturn == nvml.NVML_SUCCESS else nvml.nvmlDeviceGetPowerUsage(handle))


def _throttle_mask(nvml: Any, handle: Any) -> int:
    """The bits of the current reasons for lower clocks; older bindings have the function under its older name."""
    try:
        return int(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    except (AttributeError, nvml.NVMLError):  # an older binding, or an older driver
        return int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))


def _supported(ask: Callable[[], Any]) -> Any:
    nvml = nvml_binding()
    try:
        return ask()
    except nvml.NVMLError:  # not supported, not permitted, unknown to the driver: no reading, and no end of the work
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def environment() -> dict[str, str]:
    """The current CUDA device for the environment record: name, UUID, driver, CUDA version, power limit in watts."""
    record = {"gpu": device(), "gpu_uuid": uuid(), "driver": driver(), "cuda_runtime": cuda.runtime_version()}
    limit = _supported(lambda: nvml_binding().nvmlDeviceGetEnforcedPowerLimit(board(cuda.bus_id())))
    return record if limit is None or is_slice() else record | {"gpu_power_limit_watts": f"{limit * MILLI:g}"}
