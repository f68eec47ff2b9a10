"""What a backend is: the protocol, what it is given, what it returns, and the catalog."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from pqbench.common.v1.common_pb2 import Form, Precision, Preprocessing
from pqbench_wire.catalog import Catalog
from pqbench_wire.inputs import Feed, Inputs, named

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # OpenVINO would report its use
BACKENDS = Catalog("backend", "pqbench_runtime.backends")


@dataclass(frozen=True, kw_only=True)
class Route:
    """The form of artifact in which a backend runs a precision, and what its layers may execute in.

    `evidence` says why this form: a figure or a rule. A precision without a route is refused.
    """

    precision: Precision
    form: Form
    executes: tuple[Precision, ...]
    evidence: str


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of an engine as the backend reports it after the build."""

    name: str
    type: str
    precision: str  # "FP32", "FP16", "BF16", "INT8", or as the backend says
    compute: bool  # a convolution or matrix product


@dataclass(frozen=True, kw_only=True)
class Built:
    """A built engine: its bytes, its layers, and the settings it was really built with."""

    data: bytes
    layers: list[Layer]
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What an engine takes: one image, or other inputs."""

    batch: int
    preprocessing: Preprocessing

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


class Session(Protocol):
    """A loaded engine."""

    def bind(self, batch: Feed) -> Callable[[], Sequence[np.ndarray]]:
        """The timed call for one batch: host arrays in, for images float32 [N, C, H, W], and host arrays out.

        It may be called any number of times and returns only once the outputs are on the host.
        """
        ...


class Backend(Protocol):
    """A runtime library on a device."""

    REQUIRES: ClassVar[tuple[str, ...]]
    Config: ClassVar[type]  # its options: threads, provider, ...
    ROUTES: ClassVar[tuple[Route, ...]]
    LIBRARIES: ClassVar[tuple[str, ...]]  # distributions whose versions decide an engine

    def device(self) -> str:
        """What engines run on; an engine is never loaded on another."""
        ...

    def build(self, artifact: Path, precision: Precision, shape: Shape, options: Any) -> Built:
        """Build an engine for one batch size. Raises Failed with the library's reason."""
        ...

    def load(self, engine: Path, precision: Precision, shape: Shape, options: Any) -> Session:
        """Load a built engine."""
        ...


def route_for(backend: Any, precision: Precision, form: Form) -> Route | None:
    """The backend's route for a precision in a form."""
    return next((route for route in backend.ROUTES if (route.precision, route.form) == (precision, form)), None)
