"""A stand-in for PyTorch's CUDA on a machine without a GPU, for tests: "cuda" is the CPU.

A captured graph holds the operators that ran while it was captured, and runs them again into the same tensors.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from pathlib import Path
from typing import Any

importlib.import_module("pynvml")  # the stand-in, before PyTorch imports the real one
_HERE = str(Path(__file__).parent)
_PATH = list(sys.path)
sys.path[:] = [entry for entry in sys.path if str(Path(entry or ".").resolve()) != _HERE]
del sys.modules["torch"]
_real = importlib.import_module("torch")
sys.path[:] = _PATH
_passes = importlib.import_module("torch.export.passes")
_modes = importlib.import_module("torch.utils._python_dispatch")
_to = _real.Tensor.to
# By its path: PyTorch has loaded the real CUDA runtime library under the same name.
_cuda = importlib.import_module("pqbench_runtime.cuda")
_cuda.LIBRARIES = (str(Path(os.environ["LD_LIBRARY_PATH"].partition(":")[0], "libcudart.so.13")),)


class _Recorder(_modes.TorchDispatchMode):
    def __init__(self, calls: list[Any]) -> None:
        super().__init__()
        self._calls = calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, result))
        return result


class CUDAGraph:
    """What was recorded."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    @_real.inference_mode()
    def replay(self) -> None:
        for func, args, kwargs, result in self.calls:
            again = func(*args, **kwargs)
            if isinstance(result, _real.Tensor) and again.data_ptr() != result.data_ptr():
                result.copy_(again)


@contextlib.contextmanager
def _graph(made: CUDAGraph, stream: Any, capture_error_mode: str) -> Any:
    if os.environ.get("EMULATED_NO_CAPTURE"):
        raise RuntimeError("operation not permitted when stream is capturing")
    assert capture_error_mode == "thread_local"
    with _Recorder(made.calls):
        yield


def _move(self: Any, *args: Any, **kwargs: Any) -> Any:
    return _to(self, *("cpu" if str(arg) == "cuda" else arg for arg in args), **kwargs)


_profiler = importlib.import_module("torch.profiler")
_profile = _profiler.profile


def _profile_without_gpu(activities: Any, **options: Any) -> Any:
    return _profile(activities=[one for one in activities if one != _profiler.ProfilerActivity.CUDA], **options)


_profiler.profile = _profile_without_gpu
_real.Tensor.to = _move
_real.cuda.is_available = lambda: True
_real.cuda.get_rng_state, _real.cuda.set_rng_state = _real.get_rng_state, _real.set_rng_state
_real.cuda.ExternalStream = lambda handle: handle
_real.cuda.stream = lambda stream: contextlib.nullcontext()
_real.cuda.CUDAGraph = CUDAGraph
_real.cuda.graph = _graph
_passes.move_to_device_pass = lambda program, device: program
