"""The protocol of backends, the types that their functions take and return, and the catalog of all backends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from pydantic import Field

from pqbench.common.v1.common_pb2 import Form, Precision, Preprocessing
from pqbench_wire.catalog import Catalog
from pqbench_wire.shared.inputs import Feed, Inputs, named

UNKNOWN = "unknown"  # the precision of a layer for which a backend reports none


@dataclass(frozen=True, kw_only=True)
class Route:
    """The form of artifact in which a backend runs a precision, and the precisions that its layers may execute in.

    `evidence` says why this form: a figure or a rule. `when` holds the options that the route requires, with their
    values. `demanded`: it is an error if none of an engine's compute layers run in the precision. A precision without a
    route is refused.
    """

    precision: Precision
    form: Form
    executes: tuple[Precision, ...]
    evidence: str
    when: Mapping[str, str] = field(default_factory=dict)
    demanded: bool = False

    def holds(self, options: Any) -> bool:
        """Whether a backend's options are those that the route requires."""
        return all(getattr(options, name) == value for name, value in self.when.items())


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of an engine as the backend reports it after the build."""

    name: str
    type: str
    precision: str  # "FP32", "FP16", "BF16", "INT8", ..., UNKNOWN, or the backend's own name for it
    compute: bool  # whether it is a convolution or matrix product
    tactic: str = ""  # the kernel's name in the backend
    format: str = ""  # memory layout of the first output


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """The time of one layer, measured by the backend's profiler."""

    name: str
    type: str
    precision: str  # of the kernel that ran, named as in Layer; empty where it is not known
    compute: bool
    seconds: float  # in one call, mean
    provider: str = ""  # the execution provider or the kernel that ran it, where the profiler names one


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The layers' times in the order of execution. Profiling slows a call: compare shares, not sums."""

    tool: str
    calls: int
    layers: list[LayerTime]
    launches: bool = False  # whether times are the host's, to launch the layers, and not the device's, to run them


@dataclass(frozen=True, kw_only=True)
class CrossCheck:
    """A vendor tool's times of the same engine, as far as possible with the same settings.

    `unavailable` gives the reason where there are none. `statistic` says what the times are: "median" or "mean".
    """

    tool: str
    definition: str  # what the tool's times include
    seconds: Mapping[str, float] = field(default_factory=dict)  # of one call: "latency", "compute", "h2d", "d2h"
    statistic: str = "median"
    command: str = ""
    unavailable: str = ""


@dataclass(frozen=True, kw_only=True)
class GpuOptions:
    """The options of every GPU backend, with the same meaning and defaults in all of them.

    Exceptions: in onnxruntime-tensorrt, `tf32` affects only the nodes that run outside TensorRT, and in
    onnxruntime-tensorrt-rtx it cannot be off; in both, `cuda_graph` is off by default, because ONNX Runtime waits for a
    replayed graph inside the call.
    """

    transfers: Annotated[bool, Field(description="count the copies to and from the GPU in the latency")] = True
    spin: Annotated[bool, Field(description="wait for the GPU by spinning; false: sleep until it is done")] = True
    cuda_graph: Annotated[bool, Field(description="launch the engine as one captured CUDA graph")] = True
    tf32: Annotated[bool, Field(description="let FP32 products run in TF32, as every library does by default")] = True


ENGINE = "engine"  # in SCRIPTS: the code loads the engine
GPU_TIMED = ("transfers", "spin", "cuda_graph")  # the GpuOptions that change what is timed


@dataclass(frozen=True, kw_only=True)
class Built:
    """A built engine: its bytes, its layers, and the settings that it was actually built with."""

    data: bytes
    layers: list[Layer]
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """An engine's batch size and inputs (an image or others), and how many instances of it run at the same time."""

    batch: int
    preprocessing: Preprocessing
    instances: int = 1

    @property
    def image(self) -> tuple[int, int, int, int]:
        """The shape [N, C, H, W] of the float32 image input."""
        p = self.preprocessing
        return (self.batch, p.channels, p.height, p.width)

    def inputs(self, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """The shape of each input, by the model's own `names`. Raises InvalidInput where these do not match."""
        return {name: array.shape for name, array in named(self.zeros(), names).items()}

    def zeros(self) -> Feed:
        """A batch of zeros: float32 [N, C, H, W], or `Inputs` of their own dtypes and shapes."""
        if not self.preprocessing.inputs:
            return np.zeros(self.image, np.float32)
        return Inputs({i.name: np.zeros((self.batch, *i.shape), i.dtype) for i in self.preprocessing.inputs})


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a backend builds an engine from."""

    artifact: Path
    precision: Precision
    form: Form
    shape: Shape
    caches: Path  # a folder for timing caches that builds share; each build replicate has its own
    report: Callable[[float], None] = lambda fraction: None  # called with the finished share of the build, 0 to 1
    calibration: Feed | None = None  # prepared examples, where the backend finds INT8 ranges itself; not yet normalised


class Call(Protocol):
    """The timed call for one batch."""

    def __call__(self) -> Sequence[np.ndarray]:
        """Run it; returns once the outputs are on the host, or once they are computed if copying is not timed."""
        ...


class Session(Protocol):
    """A loaded engine."""

    settings: Mapping[str, str]  # decided on loading, such as whether a CUDA graph was captured
    inputs: Sequence[str]  # names of its inputs, in order
    outputs: Sequence[str]  # names of the outputs that its calls return, in order

    def bind(self, batch: Feed) -> Call:
        """The timed call for one batch: host arrays in, for images float32 [N, C, H, W], and host arrays out.

        It may be called any number of times, until another batch is bound: the two may share buffers.
        """
        ...


class Backend(Protocol):
    """A module that runs models by one runtime library on one kind of device.

    One that runs on a GPU also has ON_GPU = True: NVML is then read during measurements.
    """

    REQUIRES: ClassVar[tuple[str, ...]]  # importable names of the libraries that it needs
    Config: ClassVar[type]  # its options: threads, provider, ...
    ROUTES: ClassVar[tuple[Route, ...]]
    TIMED: ClassVar[tuple[str, ...]]  # options that change what is timed: where they differ, times are not compared
    ENGINE_FILE: ClassVar[str]  # the name of an engine's file in a bundle

    def versions(self) -> dict[str, str]:
        """The versions of the libraries on which an engine depends; it is loaded with no others."""
        ...

    def device(self, options: Any) -> str:
        """The device's name; an engine is loaded on no other device. Raises Unavailable where there is no device."""
        ...

    def build(self, job: Job, options: Any) -> Built:
        """Build an engine for one batch size. Raises Failed with the library's reason."""
        ...

    def load(self, engine: Path, precision: Precision, shape: Shape, options: Any) -> Session:
        """Load a built engine."""
        ...

    def profile(
        self, engine: Path, precision: Precision, shape: Shape, options: Any, batch: Feed, seconds: float
    ) -> Profile:
        """Load the engine anew and run it under the library's profiler, for up to about `seconds`."""
        ...


@runtime_checkable
class CrossChecked(Protocol):
    """A backend with vendor tools that time the same engine."""

    def cross_checks(
        self, engine: Path, precision: Precision, shape: Shape, options: Any, batch: Feed, seconds: float
    ) -> list[CrossCheck]:
        """Run each tool, for about `seconds` where it can be set.

        For a tool that is missing or cannot run this engine, `unavailable` gives the reason.
        """
        ...


@runtime_checkable
class BuildsAhead(Protocol):
    """A backend that builds engines where the device is not that they will run on."""

    def built_for(self, options: Any) -> str:
        """What the engines are built for, as "8.6, 8.9"; an engine depends on this and on no device."""
        ...

    def refusals(self, options: Any) -> dict[Precision, str]:
        """Why engines of some precisions, which have a route, cannot be built here."""
        ...


@runtime_checkable
class Attempted(Protocol):
    """A backend whose library can be unable to use a device that is there."""

    def attempt(self, options: Any) -> None:
        """Use the library once, in a process of its own, while planning. Raises Unavailable with the reason."""
        ...


@runtime_checkable
class Shipped(Protocol):
    """A backend whose library loads an exported artifact directly, as users do who have only that file.

    `WAYS` names other ways of loading it, to try in order where the library's defaults give wrong outputs or none.
    """

    WAYS: ClassVar[tuple[str, ...]]

    def run_artifact(self, artifact: Path, way: str, batches: Sequence[Feed]) -> list[Sequence[np.ndarray]]:
        """Load it with the library's defaults, changed by `way` if not empty; returns the outputs of each batch."""
        ...


@runtime_checkable
class Forked(Shipped, Protocol):
    """A backend whose library takes seconds to import, and waits for no thread of its own before it runs.

    Engines are then built, and artifacts tried, in forks of a process that has imported it.
    """

    def preload(self) -> None:
        """Import what `build` and `run_artifact` will import, and run nothing."""
        ...


@runtime_checkable
class Scripted(Protocol):
    """A backend whose bundles have a predict.py.

    `SCRIPTS`: way of loading an artifact (of WAYS, or "" for the defaults) -> Python code that defines run(x), the
    outputs of the artifact at the path MODEL for one input array. With the way ENGINE, MODEL is the engine, and x has
    the batch size that it was built for. The code may import nothing but numpy, ctypes and the library.
    """

    SCRIPTS: ClassVar[dict[str, str]]


def identity(backend: Any, options: Any) -> str:
    """What a result depends on besides its request: device and versions. Raises Unavailable without the device."""
    return f"{backend.device(options)}, {_versions(backend)}"


def engine_identity(backend: Any, options: Any) -> str:
    """What an engine depends on: `identity` or, of one that is built ahead of time, what it is built for."""
    if not isinstance(backend, BuildsAhead):
        return identity(backend, options)
    return f"any machine for compute capability {backend.built_for(options)}, {_versions(backend)}"


def _versions(backend: Any) -> str:
    return " ".join(f"{name} {version}" for name, version in sorted(backend.versions().items()))


def run_for(seconds: float, call: Callable[[], object], least: int = 3, most: int = 20) -> int:
    """Call `call` for some seconds, at least `least` and at most `most` times; returns the number of calls."""
    end, count = time.perf_counter() + seconds, 0
    while count < least or (count < most and time.perf_counter() < end):
        call()
        count += 1
    return count


def route_for(backend: Any, options: Any, precision: Precision, form: Form) -> Route | None:
    """The backend's route for a precision in a form under these options, or None."""
    routes = (route for route in backend.ROUTES if route.holds(options))
    return next((route for route in routes if (route.precision, route.form) == (precision, form)), None)


BACKENDS = Catalog("backend", "pqbench_runtime.backends", Backend)
