"""TensorRT for RTX beside GPUs of several kinds, by NVIDIA's bindings and a pretended device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pqbench.runtime.v1 import runtime_pb2 as pb
from pqbench_runtime import cuda, gpu
from pqbench_runtime.backend import BACKENDS
from pqbench_runtime.service import RuntimeServicer
from pqbench_wire.errors import Failed, Unavailable

Pretend = Callable[[tuple[int, int] | None], Any]


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """The backend where a GPU of a compute capability is there; None: one that CUDA cannot use."""
    pytest.importorskip("tensorrt_rtx_bindings")

    def pretend(capability: tuple[int, int] | None) -> Any:
        def found() -> tuple[int, int]:
            if capability is None:
                raise Failed("cudaGetDevice: CUDA driver version is insufficient (error 35)")
            return capability

        monkeypatch.setattr(gpu, "is_present", lambda: True)
        monkeypatch.setattr(gpu, "device", lambda: "GPU")
        monkeypatch.setattr(cuda, "capability", found)
        return BACKENDS.load("tensorrt-rtx")

    return pretend


def test_plans_are_built_for_the_gpu_that_is_there(backend: Pretend) -> None:
    plugin = backend((8, 9))
    assert plugin.built_for(plugin.Config()) == "8.9" and plugin.device(plugin.Config()) == "GPU"
    assert plugin.built_for(plugin.Config(compute_capabilities=("8.6", "8.9"))) == "8.6, 8.9"


def test_a_gpu_that_plans_are_not_built_for_is_not_their_device(backend: Pretend) -> None:
    plugin = backend((12, 0))
    with pytest.raises(Unavailable, match="the CUDA device has compute capability 12.0"):
        plugin.device(plugin.Config(compute_capabilities=("8.9",)))


@pytest.mark.parametrize(
    ("capability", "reason"),
    [((9, 0), "the CUDA device has compute capability 9.0"), (None, "no CUDA device can be used: cudaGetDevice")],
)
def test_a_gpu_that_the_library_cannot_use_is_as_none(
    capability: tuple[int, int] | None, reason: str, backend: Pretend, tmp_path: Path
) -> None:
    plugin, servicer = backend(capability), RuntimeServicer(tmp_path, None)
    assert plugin.built_for(plugin.Config()) == "8.6, 8.9, 12.0"
    (told,) = servicer.GetCapabilities(pb.GetCapabilitiesRequest(backends=["tensorrt-rtx"]), Any).backends  # type: ignore[arg-type]
    assert told.plugin.unavailable_reason.startswith(reason) and told.versions["tensorrt-rtx"]
    checked = servicer.Check(pb.CheckRequest(backend="tensorrt-rtx", options_json="{}"), Any)  # type: ignore[arg-type]
    assert checked.unavailable_reason.startswith(reason) and checked.built_for == "8.6, 8.9, 12.0"
