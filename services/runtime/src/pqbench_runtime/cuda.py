"""CUDA's runtime library through ctypes: memory, streams, events, graphs.

No wheel of Python bindings fits all of TensorRT's containers (CUDA 11 to 13, Python 3.8 to 3.13). The functions used
here have the same signatures in all of them. Sizes are in bytes, times in seconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
import re
import sys
from collections.abc import Iterator
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from pqbench_wire.errors import Failed, OutOfMemory, Unavailable

LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so")
WHEELS = "nvidia/cu*/lib"  # where NVIDIA's wheels keep it below site-packages: nvidia/cu13, nvidia/cuda_runtime
OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation
NON_BLOCKING = 1  # cudaStreamNonBlocking: does not wait for the default stream
BLOCKING_SYNC = 1  # cudaEventBlockingSync: a thread that waits for the event sleeps
THREAD_LOCAL = 1  # cudaStreamCaptureModeThreadLocal
HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2  # cudaMemcpyKind
LARGEST_PROPERTIES = 1 << 14  # bytes; more than cudaDeviceProp has in any version, about 1 KB
COMPUTE_MAJOR, COMPUTE_MINOR = 75, 76  # cudaDevAttrComputeCapabilityMajor, Minor
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cudaMalloc": (c_void_p, c_size_t),
    "cudaFree": (c_void_p,),
    "cudaHostAlloc": (c_void_p, c_size_t, c_uint),
    "cudaFreeHost": (c_void_p,),
    "cudaMemcpyAsync": (c_void_p, c_void_p, c_size_t, c_int, c_void_p),
    "cudaStreamCreateWithFlags": (c_void_p, c_uint),
    "cudaStreamSynchronize": (c_void_p,),
    "cudaStreamDestroy": (c_void_p,),
    "cudaStreamBeginCapture": (c_void_p, c_int),
    "cudaStreamEndCapture": (c_void_p, c_void_p),
    "cudaEventCreateWithFlags": (c_void_p, c_uint),
    "cudaEventRecord": (c_void_p, c_void_p),
    "cudaEventSynchronize": (c_void_p,),
    "cudaEventElapsedTime": (c_void_p, c_void_p, c_void_p),
    "cudaEventDestroy": (c_void_p,),
    "cudaGraphInstantiateWithFlags": (c_void_p, c_void_p, c_ulonglong),
    "cudaGraphLaunch": (c_void_p, c_void_p),
    "cudaGraphExecDestroy": (c_void_p,),
    "cudaGraphDestroy": (c_void_p,),
    "cudaRuntimeGetVersion": (c_void_p,),
    "cudaGetDevice": (c_void_p,),
    "cudaDeviceGetAttribute": (c_void_p, c_int, c_int),
    "cudaDeviceGetPCIBusId": (c_char_p, c_int, c_int),
    "cudaGetLastError": (),
}


def candidates() -> list[str]:
    """Names and paths of CUDA's runtime library in the order in which they are tried.

    First those in LD_LIBRARY_PATH, which somebody chose, then what this process has loaded already, then that of
    NVIDIA's wheels, then the system's; each with the major version of the installed TensorRT first, with which it is
    known to work.
    """
    chosen = [Path(folder) for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    loaded = {path for path in mapped_files() if Path(path).name.startswith("libcudart.so")}
    folders = [folder for place in sys.path for folder in sorted(Path(place).glob(WHEELS))]
    paths, wheels = (
        [str(path) for folder in some for path in sorted(folder.glob("libcudart.so.*"))] for some in (chosen, folders)
    )
    major = _major_of_tensorrt()
    return [
        name
        for group in (paths, sorted(loaded), wheels, LIBRARIES)
        for name in sorted(group, key=lambda name: f"libcudart.so.{major}" not in name)
    ]


def mapped_files() -> list[str]:
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    return [line.split(maxsplit=5)[5] for line in lines if line.count("/")]


def _major_of_tensorrt() -> str:
    """The major CUDA version of an installed TensorRT of any kind, as its distribution is named; else empty."""
    names = [one.metadata["Name"] or "" for one in metadata.distributions()]
    found = (re.fullmatch(r"tensorrt[\w-]*?[-_]cu(\d+)[\w-]*", name) for name in names)
    return next((match[1] for match in found if match), "")


@functools.cache
def _library() -> ctypes.CDLL:
    tried = candidates()
    for name in tried:
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(name)
            break
    else:
        raise Unavailable(f"CUDA's runtime library is not found (tried {', '.join(tried)})")
    for name, arguments in SIGNATURES.items():
        getattr(library, name).argtypes = arguments
    library.cudaGetErrorString.restype = c_char_p
    return library


def _call(name: str, *arguments: Any) -> None:
    """Call a function of the library. Raises OutOfMemory, or Failed with the library's error text."""
    status = getattr(_library(), name)(*arguments)
    if status == 0:
        return
    text = _library().cudaGetErrorString(status).decode()
    _library().cudaGetLastError()  # clears the error, which the next call would return otherwise
    if status == OUT_OF_MEMORY:
        raise OutOfMemory(f"the GPU is out of memory: {name}: {text}")
    raise Failed(f"{name}: {text} (error {status})")


def runtime_version() -> str:
    """The CUDA version of the loaded runtime library."""
    number = c_int()
    _call("cudaRuntimeGetVersion", byref(number))
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def current_device() -> int:
    """The index of the current device in CUDA's order."""
    device = c_int()
    _call("cudaGetDevice", byref(device))
    return device.value


def bus_id() -> str:
    """The current device's PCI bus id, by which NVML finds it too. Raises Unavailable without a usable device."""
    text = ctypes.create_string_buffer(32)
    try:
        _call("cudaDeviceGetPCIBusId", text, len(text), current_device())
    except Failed as error:
        raise Unavailable(f"no CUDA device can be used: {error}") from error
    return text.value.decode()


def device_name() -> str:
    """The current device's name, for a MIG slice with its profile: "NVIDIA A100-SXM4-40GB MIG 1g.5gb"."""
    library, device = _library(), current_device()
    # The name comes first in a struct that differs between versions; CUDA 12 has two functions, for two of them.
    name = "cudaGetDeviceProperties_v2" if hasattr(library, "cudaGetDeviceProperties_v2") else "cudaGetDeviceProperties"
    properties = ctypes.create_string_buffer(LARGEST_PROPERTIES)
    _call(name, properties, device)
    return properties.value.decode()


def compute_capability() -> str:
    """The current device's compute capability, such as "sm_90"."""
    return "sm_{}{}".format(*capability())


def has_tf32() -> bool:
    """Whether the current device has TF32 arithmetic, as every one since compute capability 8.0."""
    return capability() >= (8, 0)


def capability() -> tuple[int, int]:
    """The current device's compute capability: major and minor version."""
    device, major, minor = current_device(), c_int(), c_int()
    _call("cudaDeviceGetAttribute", byref(major), COMPUTE_MAJOR, device)
    _call("cudaDeviceGetAttribute", byref(minor), COMPUTE_MINOR, device)
    return major.value, minor.value


class Stream:
    """A queue of work on the device; it does not wait for the default stream."""

    def __init__(self) -> None:
        self.handle = c_void_p()
        _call("cudaStreamCreateWithFlags", byref(self.handle), NON_BLOCKING)

    def synchronize(self) -> None:
        """Wait until all of the queued work is done."""
        _call("cudaStreamSynchronize", self.handle)

    @contextlib.contextmanager
    def capturing(self) -> Iterator[Graph]:
        """Record the work that is queued inside into the graph that this yields, instead of doing it."""
        graph, captured = Graph(), c_void_p()
        _call("cudaStreamBeginCapture", self.handle, THREAD_LOCAL)
        try:
            yield graph
        except BaseException:
            with contextlib.suppress(Failed):  # the capture is invalid; the error that broke it is raised
                _call("cudaStreamEndCapture", self.handle, byref(captured))
            raise
        _call("cudaStreamEndCapture", self.handle, byref(captured))
        graph.instantiate(captured)

    def __del__(self) -> None:
        _free("cudaStreamDestroy", self.handle)


class Event:
    """A point in a stream's work. `spin`: a thread that waits for it keeps a core busy instead of sleeping."""

    def __init__(self, spin: bool) -> None:
        self.handle = c_void_p()
        _call("cudaEventCreateWithFlags", byref(self.handle), 0 if spin else BLOCKING_SYNC)

    def record(self, stream: Stream) -> None:
        """Place the event after all work that the stream has queued so far."""
        _call("cudaEventRecord", self.handle, stream.handle)

    def synchronize(self) -> None:
        """Wait until the work before it is done."""
        _call("cudaEventSynchronize", self.handle)

    def since(self, earlier: Event) -> float:
        """Seconds from `earlier` to this event; the work before both must be done."""
        milliseconds = c_float()
        _call("cudaEventElapsedTime", byref(milliseconds), earlier.handle, self.handle)
        return milliseconds.value / 1e3

    def __del__(self) -> None:
        _free("cudaEventDestroy", self.handle)


class Graph:
    """A CUDA graph: recorded work that is launched with one call."""

    def __init__(self) -> None:
        self.handle = c_void_p()

    def instantiate(self, captured: c_void_p) -> None:
        """Make the graph launchable from what a stream captured; `captured` is destroyed."""
        try:
            _call("cudaGraphInstantiateWithFlags", byref(self.handle), captured, 0)
        finally:
            _call("cudaGraphDestroy", captured)

    def launch(self, stream: Stream) -> None:
        """Queue the recorded work."""
        _call("cudaGraphLaunch", self.handle, stream.handle)

    def __del__(self) -> None:
        _free("cudaGraphExecDestroy", self.handle)


class Pinned:
    """An array (`host`) in page-locked host memory, which the device can copy from and to directly."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.bytes = max(1, math.prod(shape) * dtype.itemsize)
        self._pinned = c_void_p()
        _call("cudaHostAlloc", byref(self._pinned), self.bytes, 0)
        assert self._pinned.value is not None
        raw = memoryview((ctypes.c_byte * self.bytes).from_address(self._pinned.value)).cast("B")
        self.host = np.frombuffer(raw, dtype, math.prod(shape)).reshape(shape)

    def __del__(self) -> None:
        _free("cudaFreeHost", self._pinned)


class Tensor(Pinned):
    """An array on the device (`device`) with a pinned one of the same shape on the host (`host`)."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        super().__init__(shape, dtype)
        self.device = c_void_p()
        _call("cudaMalloc", byref(self.device), self.bytes)

    def upload(self, stream: Stream) -> None:
        """Queue the copy from the host to the device."""
        _call("cudaMemcpyAsync", self.device, self._pinned, self.bytes, HOST_TO_DEVICE, stream.handle)

    def download(self, stream: Stream) -> None:
        """Queue the copy from the device to the host."""
        _call("cudaMemcpyAsync", self._pinned, self.device, self.bytes, DEVICE_TO_HOST, stream.handle)

    def __del__(self) -> None:
        _free("cudaFree", self.device)
        super().__del__()


def _free(name: str, handle: c_void_p) -> None:
    """Free a resource once; errors are ignored, because at the end of a process CUDA may be shut down already."""
    if handle.value is not None:
        getattr(_library(), name)(handle)
        handle.value = None
