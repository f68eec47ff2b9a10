"""NVML's readings on boards and drivers that lack some, and where CUDA's library is looked for."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pqbench_runtime import cuda, gpu

EMULATOR = Path(__file__).parents[2] / "emulator/pynvml.py"


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The emulated binding, whose functions a test can replace."""
    spec = importlib.util.spec_from_file_location("emulated_nvml", EMULATOR)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(gpu, "nvml_binding", lambda: module)
    monkeypatch.setattr(gpu, "board", lambda bus_id: "board")
    monkeypatch.setattr(cuda, "bus_id", lambda: "0000:0F:00.0")
    return module


def test_an_old_driver_gives_the_readings_that_it_has(nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any) -> Any:
        raise nvml.NVMLError_FunctionNotFound("function not found")

    for name in ("nvmlDeviceGetFieldValues", "nvmlDeviceGetCurrentClocksEventReasons"):
        monkeypatch.setattr(nvml, name, unknown, raising=False)
    monkeypatch.setattr(nvml, "nvmlDeviceGetPowerUsage", lambda handle: 75_000, raising=False)
    monkeypatch.setattr(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", lambda handle: 0x4, raising=False)
    found = gpu.reading(1.0)
    assert found.power_watts == 75.0 and list(found.throttled) == ["power cap"]


def test_an_error_of_nvml_is_a_missing_reading(nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise nvml.NVMLError("unknown error")

    monkeypatch.setattr(nvml, "nvmlDeviceGetClockInfo", broken)
    found = gpu.reading(1.0)
    assert not found.HasField("sm_mhz") and found.HasField("power_watts")


def test_a_mig_slice_is_not_its_parent(nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMULATED_MIG", "1")
    monkeypatch.setattr(cuda, "device_name", lambda: "Emulated GPU MIG 1g.5gb")
    monkeypatch.setattr(cuda, "compute_capability", lambda: "sm_80")
    assert gpu.device() == "Emulated GPU MIG 1g.5gb [sm_80] driver 580"
    assert not gpu.reading(1.0).HasField("power_watts") and gpu.memory_in_use() is None


def test_cudas_library_is_that_of_the_installed_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, major in (("nvidia/cu13/lib", "13"), ("nvidia/cuda_runtime/lib", "12")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / f"libcudart.so.{major}").touch()
    info = tmp_path / "tensorrt_cu12_bindings-10.16.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorrt_rtx_cu12_bindings\nVersion: 10.16\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(cuda, "mapped_files", list)
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    twelve, thirteen = "nvidia/cuda_runtime/lib/libcudart.so.12", "nvidia/cu13/lib/libcudart.so.13"
    assert cuda.candidates()[:3] == [str(tmp_path / twelve), str(tmp_path / thirteen), "libcudart.so.12"]
    monkeypatch.setattr(cuda, "mapped_files", lambda: ["/opt/cuda/libcudart.so.11.0"])
    assert cuda.candidates()[0] == "/opt/cuda/libcudart.so.11.0", "what is loaded already"
