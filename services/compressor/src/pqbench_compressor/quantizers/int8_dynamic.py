"""INT8 weights, and activations quantized at run time, without calibration (ONNX Runtime's dynamic quantizer)."""

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
    """How weights are scaled, and whether convolutions are quantized."""

    per_channel: Annotated[
        bool,
        Field(description="matrix products: one scale per output channel; false, and convolutions: one per weight"),
    ] = True
    convolutions: Annotated[
        bool, Field(description="quantize convolutions too: ConvInteger, which is often slower than FP32")
    ] = True


def needs(config: Config) -> Needs:
    return Needs()


def quantize(source: Source, config: Config, context: Context, forms: tuple[Form, ...]) -> dict[Form, bytes]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(source.onnx())
        name_of_pass = _pass(folder, "model", ["MatMul", "Gemm"], QuantType.QInt8, config.per_channel)
        if config.convolutions:
            # ConvInteger takes only unsigned weights, with one scale for the whole tensor.
            name_of_pass = _pass(folder, name_of_pass, ["Conv"], QuantType.QUInt8, per_channel=False)
        model = onnx.load(folder / f"{name_of_pass}.onnx")
    return {form: model.SerializeToString(deterministic=True) for form in forms}


def _pass(folder: Path, before: str, operators: list[str], weights: QuantType, per_channel: bool) -> str:
    """Quantize `operators` of the file `before` into a new file; returns the new file's name without suffix."""
    after = f"{before}_{operators[0]}"
    quantize_dynamic(
        folder / f"{before}.onnx", folder / f"{after}.onnx", op_types_to_quantize=operators, per_channel=per_channel,
        weight_type=weights,
    )  # fmt: skip
    return after
