"""ONNX Runtime's static quantizer with its defaults: Q/DQ, min-max, one scale per weight, signed activations.

Source: onnxruntime.quantization.quantize_static. pqbench's own quantizer is int8-static.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import onnx
from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static
from pydantic import Field

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_compressor.plugins import Context, Needs, Source
from pqbench_compressor.quantizers._batches import Reader, whole_batches
from pqbench_compressor.quantizers._tools import asking

REQUIRES = ("onnx", "onnxruntime")
PRECISION = Precision.PRECISION_INT8
FORMS = (Form.FORM_QDQ_TOOL,)
TYPES = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
METHODS = {
    "min-max": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The tool's options with its own defaults; the number of images is pqbench's default."""

    images: Annotated[int, Field(ge=1, le=100_000, description="training images, drawn with the run's seed")] = 512
    activations: Annotated[Literal["int8", "uint8"], Field(description="type of quantized activations")] = "int8"
    ranges: Annotated[
        Literal["min-max", "entropy", "percentile"], Field(description="how ranges come from activations")
    ] = "min-max"
    per_channel: Annotated[bool, Field(description="one scale per output channel; false: one per weight")] = False


def needs(config: Config) -> Needs:
    return Needs(training=True)


def quantize(source: Source, config: Config, context: Context, forms: tuple[Form, ...]) -> dict[Form, bytes]:
    inputs = context.training.sample(config.images, context.seed)
    context.report("calibrate", 0, f"{len(inputs)} images")
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "model.onnx"), Path(folder, "quantized.onnx")
        before.write_bytes(source.onnx())
        feeds, used = whole_batches(onnx.load(before), inputs)
        with asking("ONNX Runtime's quantizer"):
            quantize_static(
                before, after, Reader(feeds), activation_type=TYPES[config.activations], weight_type=QuantType.QInt8,
                calibrate_method=METHODS[config.ranges], per_channel=config.per_channel,
            )  # fmt: skip
        model = onnx.load(after)
    source.notes["calibration_images"] = used
    return dict.fromkeys(forms, model.SerializeToString(deterministic=True))
