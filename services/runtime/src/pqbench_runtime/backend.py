"""What a backend is: the protocol, what it is given, what it returns, and the catalog."""

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
from pqbench_wire.inputs import Feed, Inputs, named

UNKNOWN = "unknown"  # the precision of a layer of which a backend tells nothing


@dataclass(frozen=True, kw_only=True)
class Route:
    """The form of artifact in which a backend runs a precision, and what its layers may execute in.

    `evidence` says why this form: a figure or a rule. `when` are options under which alone it holds.
    `demanded`: an engine none of whose compute layers run in the precision is an error. A precision without a route is
    refused.
    """

    precision: Precision
    form: Form
    executes: tuple[Precision, ...]
    evidence: str
    when: Mapping[str, str] = field(default_factory=dict)
    demanded: bool = False

    def holds(self, options: Any) -> bool:
        """Whether a backend's options allow it."""
        return all(getattr(options, name) == value for name, value in self.when.items())


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of an engine as the backend reports it after the build."""

    name: str
    type: str
    precision: str  # "FP32", "FP16", "BF16", "INT8", UNKNOWN, or as the backend says
    compute: bool  # a convolution or matrix product
    tactic: str = ""  # the kernel, as the backend calls it
    format: str = ""  # memory layout of the first output


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """What the backend's profiler says of one layer; its own time, without that of layers inside it."""

    name: str
    type: str
    precision: str  # as in Layer; of the kernel that ran
    compute: bool
    seconds: float  # of one call, mean
    provider: str = ""  # the part of the runtime that ran it, where there are several


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Where the time of a call goes, in the order of execution. Profiling slows a call: shares count, not sums."""

    tool: str
    calls: int
    layers: list[LayerTime]
    launches: bool = False  # the layers' times are those of the host to launch them on a device


@dataclass(frozen=True, kw_only=True)
class CrossCheck:
    """What another tool measures of the same engine with the same settings; seconds of one call, by part.

    `unavailable` says why there are none. `statistic` is what the tool's figures are: "median", "mean".
    """

    tool: str
    definition: str  # what the tool's clock goes around
    seconds: Mapping[str, float] = field(default_factory=dict)  # "latency", "compute", "h2d", "d2h"
    statistic: str = "median"
    command: str = ""
    unavailable: str = ""


@dataclass(frozen=True, kw_only=True)
class GpuOptions:
    """What every backend on a GPU takes, with the same meaning and defaults in all of them."""

    transfers: Annotated[bool, Field(description="count the copies to and from the GPU in the latency")] = True
    spin: Annotated[bool, Field(description="wait for the GPU by spinning; false: sleep until it is done")] = True
    cuda_graph: Annotated[bool, Field(description="launch the engine as one captured CUDA graph")] = True
    tf32: Annotated[bool, Field(description="let FP32 products run in TF32, as every library does by default")] = True


GPU_TIMED = ("transfers", "spin", "cuda_graph")  # of these, what changes what is timed


@dataclass(frozen=True, kw_only=True)
class Built:
    """A built engine: its bytes, its layers, and the settings it was really built with."""

    data: bytes
    layers: list[Layer]
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What an engine takes, one image or other inputs, and how many of it work at once."""

    batch: int
    preprocessing: Preprocessing
    instances: int = 1

    @property
    def image(self) -> tuple[int, int, int, int]:
        """[N, C, H, W] of the float32 image input."""
        p = self.preprocessing
        return (self.batch, p.channels, p.height, p.width)

    def inputs(self, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """The shape of each input of a model that calls them `names`. Raises InvalidInput where they do not match."""
        return {name: array.shape for name, array in named(self.zeros(), names).items()}

    def zeros(self) -> Feed:
        """A batch of zeros."""
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
    caches: Path  # a folder that builds share, replicates apart
    report: Callable[[float], None] = lambda fraction: None  # is told how far the build is, 0 to 1
    calibration: Feed | None = None  # for a form whose ranges the backend finds itself


class Call(Protocol):
    """The timed call for one batch."""

    def __call__(self) -> Sequence[np.ndarray]:
        """Run it; returns once the outputs are on the host, or can be read from there on first access."""
        ...


@runtime_checkable
class DeviceTimed(Protocol):
    """A call whose device has events of its own."""

    def device_times(self) -> Mapping[str, float]:
        """Seconds of the last call by the device's clock: compute, h2d, d2h."""
        ...


class Session(Protocol):
    """A loaded engine."""

    settings: Mapping[str, str]  # what loading decided, such as that a CUDA graph could not be captured
    inputs: Sequence[str]  # names of what it takes, in order
    outputs: Sequence[str]  # names of what its calls return, in order

    def bind(self, batch: Feed) -> Call:
        """The timed call for one batch: host arrays in, for images float32 [N, C, H, W], and host arrays out.

        It may be called any number of times.
        """
        ...


class Backend(Protocol):
    """A runtime library on a device.

    One that runs on a GPU says ON_GPU = True: NVML is read while it measures.
    """

    REQUIRES: ClassVar[tuple[str, ...]]
    Config: ClassVar[type]  # its options: threads, provider, ...
    ROUTES: ClassVar[tuple[Route, ...]]
    TIMED: ClassVar[tuple[str, ...]]  # options that change what is timed: where they differ, times are not compared
    ENGINE_FILE: ClassVar[str]  # what an engine's file is called in a bundle

    def versions(self) -> dict[str, str]:
        """The versions that decide an engine."""
        ...

    def device(self, options: Any) -> str:
        """What engines run on; an engine is never loaded on another. Raises Unavailable where it is not there."""
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
        """Load the engine anew under the library's profiler and run it for some `seconds`."""
        ...


@runtime_checkable
class CrossChecked(Protocol):
    """A backend with vendor tools that time the same engine."""

    def cross_checks(
        self, engine: Path, precision: Precision, shape: Shape, options: Any, batch: Feed, seconds: float
    ) -> list[CrossCheck]:
        """Run each tool for about `seconds`; one that is not there, or cannot run this engine, says so."""
        ...


@runtime_checkable
class Shipped(Protocol):
    """A backend whose users load the artifact itself, not an engine built of it.

    `WAYS`: how, after the library's defaults: what to try where these give wrong outputs or none.
    """

    WAYS: ClassVar[tuple[str, ...]]

    def run_artifact(self, artifact: Path, way: str, batches: Sequence[Feed]) -> list[Sequence[np.ndarray]]:
        """Load it, with the library's defaults but for `way`, and run batches of different sizes."""
        ...


def identity(backend: Any, options: Any) -> str:
    """What decides an engine besides its request: device and versions. Raises Unavailable without the device."""
    versions = " ".join(f"{name} {version}" for name, version in sorted(backend.versions().items()))
    return f"{backend.device(options)}, {versions}"


def run_for(seconds: float, call: Callable[[], object], least: int = 3, most: int = 20) -> int:
    """Call it for some seconds, `least` times at least and `most` at most; returns how often."""
    end, count = time.perf_counter() + seconds, 0
    while count < least or (count < most and time.perf_counter() < end):
        call()
        count += 1
    return count


def route_for(backend: Any, options: Any, precision: Precision, form: Form) -> Route | None:
    """The backend's route for a precision in a form, under its options."""
    routes = (route for route in backend.ROUTES if route.holds(options))
    return next((route for route in routes if (route.precision, route.form) == (precision, form)), None)


BACKENDS = Catalog("backend", "pqbench_runtime.backends", Backend)
