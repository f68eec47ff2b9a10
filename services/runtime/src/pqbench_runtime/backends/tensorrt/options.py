"""The options of the TensorRT backend; the choices of `typing` depend on the installed version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tensorrt as trt
from pydantic import Field, model_validator

from pqbench_runtime.backend import GpuOptions

NAME = f"TensorRT {trt.__version__}"
MAJOR = int(trt.__version__.partition(".")[0])
Typing = Literal["weak", "strong"] if MAJOR == 10 else Literal["strong"] if MAJOR > 10 else Literal["weak"]


@dataclass(frozen=True, kw_only=True)
class Config(GpuOptions):
    """Options of TensorRT: how plans are built and run."""

    typing: Annotated[
        Typing,  # type: ignore[valid-type]  # a Literal that depends on the version
        Field(description="weak: builder flags choose precisions (to 10); strong: the ONNX types do (from 10)"),
    ] = "weak" if MAJOR <= 10 else "strong"
    optimization_level: Annotated[
        int | None, Field(ge=0, le=5, description="effort of the builder; none: TensorRT's default, 3")
    ] = None
    avg_timing_iterations: Annotated[
        int, Field(ge=1, le=1000, description="timings of a tactic that are averaged; trtexec's default")
    ] = 8
    workspace_mb: Annotated[
        int | None, Field(ge=1, description="limit of scratch memory in MiB; none: all of the GPU's")
    ] = None
    batch_range: Annotated[
        tuple[int, int, int] | None,
        Field(description="min, opt and max of one dynamic profile; none: a static profile for each batch size"),
    ] = None
    sparse_weights: Annotated[bool, Field(description="let 2:4 sparse weights use sparse tensor cores")] = False
    timing_cache: Annotated[bool, Field(description="builds share the timings of tactics")] = True
    version_compatible: Annotated[bool, Field(description="a plan that later versions of this major load")] = False
    hardware_compatible: Annotated[bool, Field(description="a plan that every GPU from Ampere on loads")] = False
    calibrator: Annotated[
        Literal["entropy", "min-max"], Field(description="for INT8 without Q/DQ nodes; TensorRT up to 10 only")
    ] = "entropy"

    @model_validator(mode="after")
    def _ordered(self) -> Config:
        if self.batch_range and not 1 <= self.batch_range[0] <= self.batch_range[1] <= self.batch_range[2]:
            raise ValueError(f"batch_range must be min <= opt <= max from 1 on, got {list(self.batch_range)}")
        return self
