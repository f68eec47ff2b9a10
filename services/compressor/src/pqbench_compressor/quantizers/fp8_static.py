"""FP8 E4M3 Q/DQ with ranges from training images (Micikevicius et al., arXiv 2209.05433).

Q/DQ nodes are placed as in the signed form of int8-static. Weights have one scale per output channel:
their largest magnitude / 448, the largest number of E4M3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_compressor.graph import Graph
from pqbench_compressor.plugins import Context, Needs, Source
from pqbench_compressor.quantizers import _calibration, _half, _ranges, _signed

REQUIRES = ("torch", "onnx", "onnxruntime")
PRECISION = Precision.PRECISION_FP8
FORMS = (Form.FORM_QDQ_SIGNED, Form.FORM_QDQ_TYPED)


@dataclass(frozen=True, kw_only=True)
class Config:
    """How many images to calibrate with, and which nodes stay FP32."""

    images: Annotated[int, Field(ge=1, le=100_000, description="training images, drawn with the run's seed")] = 512
    keep: Annotated[tuple[str, ...], Field(description="nodes that stay FP32, by name or pattern")] = ()


def needs(config: Config) -> Needs:
    return Needs(training=True)


def quantize(source: Source, config: Config, context: Context, forms: tuple[Form, ...]) -> dict[Form, bytes]:
    model = source.onnx()
    inputs = context.training.sample(config.images, context.seed)
    calibration = _calibration.collect(model, _ranges.watched(Graph(model)), inputs, context.report)
    source.notes |= {"calibration_images": len(inputs), "calibration_batch": calibration.batch}
    source.notes |= Graph(model).notes()
    ranges = {name: calibration.range(name, "min-max", 100) for name in calibration.activations}
    placed = _signed.signed(model, ranges, Graph(model).matching(config.keep), fp8=True)
    return {form: _half.typed(placed) if form == Form.FORM_QDQ_TYPED else placed for form in forms}
