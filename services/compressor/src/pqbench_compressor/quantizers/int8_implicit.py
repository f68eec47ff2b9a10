"""INT8 by TensorRT's own calibrator (up to version 10): exports an FP32 model and the calibration images.

This is what the thesis measured as "int8". TensorRT determines one range per tensor while it builds the
engine, and may run a layer in FP16 or FP32 where that is faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_compressor.opset import lowered
from pqbench_compressor.plugins import Context, Needs, Source

REQUIRES = ("torch", "onnx")
PRECISION = Precision.PRECISION_INT8
FORMS = (Form.FORM_ONNX_UNTYPED,)


@dataclass(frozen=True, kw_only=True)
class Config:
    """How many images to calibrate with."""

    images: Annotated[int, Field(ge=1, le=100_000, description="training images, drawn with the run's seed")] = 512


def needs(config: Config) -> Needs:
    return Needs(training=True)


def quantize(source: Source, config: Config, context: Context, forms: tuple[Form, ...]) -> dict[Form, bytes]:
    source.calibration = context.training.raw(config.images, context.seed)
    source.notes["calibration_images"] = len(source.calibration)
    return dict.fromkeys(forms, lowered(source.onnx()))
