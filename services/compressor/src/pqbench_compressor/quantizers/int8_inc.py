"""Intel Neural Compressor's static quantization with its defaults: PT2E, moving-average min-max observers.

Since version 3 it has no ONNX backend. Its PyTorch backend uses torchao, and the result is exported as Q/DQ.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_compressor.plugins import Context, Needs, Source
from pqbench_compressor.quantizers._pt2e import calibrate, exported, module_of, undisturbed
from pqbench_compressor.tensors import dynamic_batch, tensors

REQUIRES = ("torch", "torchao", "neural_compressor")
PRECISION = Precision.PRECISION_INT8
FORMS = (Form.FORM_QDQ_TOOL,)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The tool's options with its own defaults; the number of images is pqbench's default."""

    images: Annotated[int, Field(ge=1, le=100_000, description="training images, drawn with the run's seed")] = 512
    algorithm: Annotated[Literal["minmax", "kl"], Field(description="how ranges come from activations")] = "minmax"


def needs(config: Config) -> Needs:
    return Needs(training=True)


def quantize(source: Source, config: Config, context: Context, forms: tuple[Form, ...]) -> dict[Form, bytes]:
    module = module_of(source)
    images = context.training.sample(config.images, context.seed)
    os.environ.setdefault("LOGLEVEL", "ERROR")  # it reads this when first imported; without it, it logs a lot
    with undisturbed("Neural Compressor"):
        from neural_compressor.torch.export import export
        from neural_compressor.torch.quantization import INT8StaticQuantConfig, convert, prepare
        from torchao.quantization.pt2e.constant_fold import constant_fold
        from torchao.quantization.pt2e.quantize_pt2e import _quant_node_constraint

        program = export(module, tensors(images[:2]), dynamic_shapes=dynamic_batch(images))
        prepared = prepare(program, INT8StaticQuantConfig(act_algo=config.algorithm))
        calibrate(prepared, images, context)
        converted = convert(prepared)
        constant_fold(converted, _quant_node_constraint)  # by itself, the tool does not store weights as INT8
        data = exported(converted, context)
    source.notes["calibration_images"] = len(images)
    return dict.fromkeys(forms, data)
