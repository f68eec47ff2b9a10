"""What a backend is: the protocol, what it is given, what it returns, and the catalog."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from pqbench.common.v1.common_pb2 import Form, Precision, Preprocessing
from pqbench_wire.catalog import Catalog

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
    """The one input of an engine."""

    batch: int
    preprocessing: Preprocessing

    @property
    def input(self) -> tuple[int, int, int, int]:
        """[N, C, H, W] of the float32 input."""
        p = self.preprocessing
        return (self.batch, p.channels, p.height, p.width)


class Session(Protocol):
    """A loaded engine."""

    def bind(self, batch: np.ndarray) -> Callable[[], np.ndarray]:
        """The timed call for one batch: host array float32 [N, C, H, W] in, host array [N, classes] out.

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
