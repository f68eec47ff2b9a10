"""INT8 by quantization-aware training (Jacob et al., arXiv 1712.05877; Krishnamoorthi, arXiv 1806.08342).

Weights and inputs of convolutions and linear layers are rounded to 8 bits while the model is
fine-tuned. Then the model is calibrated and exported as by int8-static with its defaults. Zeros that
pruning left stay zero.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from pqbench.common.v1.common_pb2 import Form as Form
from pqbench.common.v1.common_pb2 import Precision
from pqbench_compressor import fake_quant
from pqbench_compressor.export import to_onnx
from pqbench_compressor.plugins import Context, Needs, Source
from pqbench_compressor.quantizers import int8_static
from pqbench_compressor.training import Options, frozen, train
from pqbench_wire.errors import Refused

REQUIRES = ("torch", "onnx", "onnxruntime")
PRECISION = Precision.PRECISION_INT8
FORMS = int8_static.FORMS


@dataclass(frozen=True, kw_only=True)
class Config(Options):
    """How to train, and how many images to calibrate with."""

    learning_rate: Annotated[float, Field(gt=0, description="peak of the schedule; lower than for training")] = 0.001
    images: Annotated[int, Field(ge=1, le=100_000, description="training images for calibration")] = 512


def needs(config: Config) -> Needs:
    return Needs(training=True, labels=True, baseline=config.distill)


def quantize(source: Source, config: Config, context: Context, forms: tuple[Form, ...]) -> dict[Form, bytes]:
    if source.module is None:
        raise Refused("an ONNX file has no PyTorch module to train")
    module = copy.deepcopy(source.module)
    fake_quant.insert(module, 8, 8)
    fake_quant.observe(module, context.training.sample(config.images, context.seed))
    options = Options(**{field.name: getattr(config, field.name) for field in dataclasses.fields(Options)})
    teacher = frozen(context.baseline) if config.distill else None
    loss = train(
        module, context.training, options, seed=context.seed, report=context.report, teacher=teacher,
        resume=context.resume,
    )  # fmt: skip
    fake_quant.remove(module)
    trained = Source(onnx=lambda: to_onnx(module, context.example), module=module)
    artifacts = int8_static.quantize(trained, int8_static.Config(images=config.images), context, forms)
    source.notes |= trained.notes | {"last_epoch_loss": loss}
    source.module = module
    return artifacts
