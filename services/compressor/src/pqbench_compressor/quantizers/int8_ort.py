"""ONNX Runtime's static quantizer with its defaults: Q/DQ, min-max, one scale per weight, signed activations.

Source: onnxruntime.quantization.quantize_static. pqbench's own quantizer is int8-static.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
from pydantic import Field

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_compressor.onnx_check import fixed_batch
from pqbench_compressor.plugins import Context, Needs, Source
from pqbench_compressor.quantizers._tools import asking
from pqbench_wire.shared.inputs import Feed, named

REQUIRES = ("onnx", "onnxruntime")
PRECISION = Precision.PRECISION_INT8
FORMS = (Form.FORM_QDQ_TOOL,)
BATCH = 32  # images
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


class _Reader(CalibrationDataReader):
    def __init__(self, names: list[str], inputs: Feed, batch: int) -> None:
        # Whole batches only: the tool's histograms cannot handle a smaller last batch.
        count = max(1, len(inputs) // batch)
        size = min(batch, len(inputs))
        self._batches = iter([named(inputs[i * size : (i + 1) * size], names) for i in range(count)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch by input, or None at the end."""
        return next(self._batches, None)


def needs(config: Config) -> Needs:
    return Needs(training=True)


def quantize(source: Source, config: Config, context: Context, forms: tuple[Form, ...]) -> dict[Form, bytes]:
    inputs = context.training.sample(config.images, context.seed)
    context.report("calibrate", 0, f"{len(inputs)} images")
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "model.onnx"), Path(folder, "quantized.onnx")
        before.write_bytes(source.onnx())
        graph_inputs = onnx.load(before).graph.input
        batch = fixed_batch(graph_inputs) or BATCH
        used = len(inputs) // batch * batch or len(inputs)
        reader = _Reader([i.name for i in graph_inputs], inputs, batch)
        with asking("ONNX Runtime's quantizer"):
            quantize_static(
                before, after, reader, activation_type=TYPES[config.activations], weight_type=QuantType.QInt8,
                calibrate_method=METHODS[config.ranges], per_channel=config.per_channel,
            )  # fmt: skip
        model = onnx.load(after)
    source.notes["calibration_images"] = used
    return dict.fromkeys(forms, model.SerializeToString(deterministic=True))
