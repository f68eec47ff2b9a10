"""Intel NNCF's post-training quantization with its defaults (nncf.quantize on ONNX, arXiv 2002.08679)."""

from __future__ import annotations

import functools
import logging
import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import onnx
from pydantic import Field

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_compressor.plugins import Context, Needs, Source
from pqbench_compressor.quantizers._tools import asking
from pqbench_wire.shared.inputs import named

REQUIRES = ("onnx", "nncf")
PRECISION = Precision.PRECISION_INT8
FORMS = (Form.FORM_QDQ_TOOL,)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The tool's options with its own defaults; the number of images is pqbench's default."""

    images: Annotated[int, Field(ge=1, le=100_000, description="training images, drawn with the run's seed")] = 512
    preset: Annotated[Literal["performance", "mixed"], Field(description="symmetric, or asymmetric activations")] = (
        "performance"
    )
    fast_bias_correction: Annotated[bool, Field(description="else the slower, more exact correction")] = True


def needs(config: Config) -> Needs:
    return Needs(training=True)


def quantize(source: Source, config: Config, context: Context, forms: tuple[Form, ...]) -> dict[Form, bytes]:
    nncf = _quiet()
    inputs = context.training.sample(config.images, context.seed)
    model = onnx.load_from_string(source.onnx())
    names = [i.name for i in model.graph.input]
    context.report("calibrate", 0, f"{len(inputs)} images")
    with asking("NNCF"):
        quantized = nncf.quantize(
            model, nncf.Dataset(range(len(inputs)), lambda i: named(inputs[i : i + 1], names)),
            subset_size=len(inputs), preset=nncf.QuantizationPreset(config.preset),
            fast_bias_correction=config.fast_bias_correction,
        )  # fmt: skip
    source.notes["calibration_images"] = len(inputs)
    return dict.fromkeys(forms, quantized.SerializeToString(deterministic=True))


@functools.cache
def _quiet() -> Any:
    """NNCF, imported without telemetry, without progress bars, and without changing this process's logger class."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    logger = logging.getLoggerClass()
    import nncf
    from nncf.common.logging.track_progress import track

    logging.setLoggerClass(logger)
    nncf.set_log_level(logging.ERROR)
    track.__init__ = functools.partialmethod(track.__init__, disable=True)
    return nncf
