"""Qualcomm AIMET's post-training quantization with its defaults (aimet_onnx.QuantizationSimModel).

Its pins differ from pqbench's: it runs in an environment of its own (make setup-tools).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Annotated, Literal

import onnx
from pydantic import Field

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_compressor.plugins import Context, Needs, Source
from pqbench_compressor.quantizers._batches import whole_batches
from pqbench_compressor.quantizers._tools import asking

REQUIRES = ("onnx", "onnxruntime", "aimet_onnx")
PRECISION = Precision.PRECISION_INT8
FORMS = (Form.FORM_QDQ_TOOL,)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The tool's options with its own defaults; the number of images is pqbench's default."""

    images: Annotated[int, Field(ge=1, le=100_000, description="training images, drawn with the run's seed")] = 512
    ranges: Annotated[
        Literal["min_max", "post_training_tf_enhanced"], Field(description="how ranges come from activations")
    ] = "min_max"


def needs(config: Config) -> Needs:
    return Needs(training=True)


def quantize(source: Source, config: Config, context: Context, forms: tuple[Form, ...]) -> dict[Form, bytes]:
    inputs = context.training.sample(config.images, context.seed)
    context.report("calibrate", 0, f"{len(inputs)} images")
    model = onnx.load_from_string(source.onnx())
    feeds, used = whole_batches(model, inputs)
    with asking("AIMET"):
        from aimet_onnx import QuantizationSimModel

        logging.getLogger("Quant").setLevel(logging.ERROR)
        simulated = QuantizationSimModel(model, quant_scheme=config.ranges, providers=["CPUExecutionProvider"])
        simulated.compute_encodings(feeds)
        quantized = simulated.to_onnx_qdq()
    source.notes["calibration_images"] = used
    return dict.fromkeys(forms, quantized.SerializeToString(deterministic=True))
