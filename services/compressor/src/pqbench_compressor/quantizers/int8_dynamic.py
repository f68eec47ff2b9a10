"""INT8 weights, activations quantized at run time: no calibration (ONNX Runtime's dynamic quantizer)."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from pydantic import Field

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_compressor.plugins import Context, Needs, Source

REQUIRES = ("onnx", "onnxruntime")
PRECISION = Precision.PRECISION_INT8_DYNAMIC
FORMS = (Form.FORM_DYNAMIC,)


@dataclass(frozen=True, kw_only=True)
class Config:
    """How weights are stored."""

    per_channel: Annotated[bool, Field(description="a scale for each output channel; else one a weight")] = True
    convolutions: Annotated[
        bool, Field(description="quantize convolutions too: ConvInteger, which is often slower than FP32")
    ] = True


def needs(config: Config) -> Needs:
    return Needs()


def quantize(source: Source, config: Config, context: Context, forms: tuple[Form, ...]) -> dict[Form, bytes]:
    operators = ["MatMul", "Gemm", *(["Conv"] if config.convolutions else [])]
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "model.onnx"), Path(folder, "quantized.onnx")
        before.write_bytes(source.onnx())
        # ConvInteger takes unsigned weights only, and one scale for all of them.
        quantize_dynamic(
            before, after, op_types_to_quantize=operators, per_channel=config.per_channel and not config.convolutions,
            weight_type=QuantType.QUInt8 if config.convolutions else QuantType.QInt8,
        )  # fmt: skip
        model = onnx.load(after)
    return {form: model.SerializeToString(deterministic=True) for form in forms}
