"""torchao's PT2E static quantization with its defaults: X86InductorQuantizer, histogram observers (pytorch/ao)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_compressor.plugins import Context, Needs, Source
from pqbench_compressor.quantizers._pt2e import calibrate, exported, module_of, undisturbed
from pqbench_compressor.tensors import dynamic_batch, tensors

REQUIRES = ("torch", "torchao")
PRECISION = Precision.PRECISION_INT8
FORMS = (Form.FORM_QDQ_TOOL,)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The number of images; the rest is the tool's defaults."""

    images: Annotated[int, Field(ge=1, le=100_000, description="training images, drawn with the run's seed")] = 512


def needs(config: Config) -> Needs:
    return Needs(training=True)


def quantize(source: Source, config: Config, context: Context, forms: tuple[Form, ...]) -> dict[Form, bytes]:
    module = module_of(source)
    images = context.training.sample(config.images, context.seed)
    with undisturbed("torchao"):
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        placement = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
        program = torch.export.export(module, tensors(images[:2]), dynamic_shapes=dynamic_batch(images), strict=True)
        prepared = prepare_pt2e(program.module(), placement)
        calibrate(prepared, images, context)
        data = exported(convert_pt2e(prepared), context)
    source.notes["calibration_images"] = len(images)
    return dict.fromkeys(forms, data)
