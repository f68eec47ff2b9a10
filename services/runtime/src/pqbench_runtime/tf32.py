"""TF32: what NVIDIA GPUs since compute capability 8.0 compute FP32 products in, unless it is switched off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pqbench.common.v1.common_pb2 import Precision
from pqbench_runtime import cuda
from pqbench_runtime.backend import GpuOptions, Layer

WIDE = (Precision.PRECISION_FP32, Precision.PRECISION_TF32)  # what layers with FP32 tensors may execute in


def with_tf32(layers: Sequence[Layer], options: GpuOptions) -> list[Layer]:
    """The layers with TF32 as the precision of FP32 products, where the current device has it and it is on."""
    if not (options.tf32 and cuda.has_tf32()):
        return list(layers)
    return [replace(one, precision="TF32") if one.compute and one.precision == "FP32" else one for one in layers]
