"""Accuracy at low bit widths: weights and activations are rounded to few bits (2 or more) in FP32 arithmetic.

It shows accuracy only, never time: no runtime here computes with such numbers, and every result is
marked SIMULATED. Rounding is uniform, as in Nagel et al., arXiv 2106.08295. With `rounding: adaround`, it is learned
for each weight from unlabelled images. With `epochs`, the model is first fine-tuned with the rounding, which is
quantization-aware training (Jacob et al., arXiv 1712.05877).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import nn

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_compressor import fake_quant, folding
from pqbench_compressor.export import to_onnx, to_pt2
from pqbench_compressor.layers import OutputsFirst
from pqbench_compressor.plugins import Context, Needs, Source
from pqbench_compressor.quantizers import _adaround
from pqbench_compressor.sensitivity import Sensitivity, allocate, curves
from pqbench_compressor.tensors import tensors
from pqbench_compressor.training import Options, frozen, train
from pqbench_wire.errors import Refused

REQUIRES = ("torch", "onnx")
PRECISION = Precision.PRECISION_SIMULATED
FORMS = (Form.FORM_ONNX, Form.FORM_PT2)
LEVELS = (8, 7, 6, 5, 4, 3, 2)  # bits
HELD_OUT = 256  # training images
EDGE = 8  # lowest number of bits of the first and the last layer


@dataclass(frozen=True, kw_only=True)
class Config(Options):
    """How many bits to round to; with epochs, also how to train with the rounding."""

    epochs: Annotated[int, Field(ge=0, le=1000, description="passes over the training split; 0: no training")] = 0
    weights: Annotated[int, Field(ge=2, le=32, description="bits; 32: not rounded")] = 8
    activations: Annotated[int, Field(ge=2, le=32, description="bits of the layers' inputs; 32: not rounded")] = 8
    images: Annotated[int, Field(ge=1, le=100_000, description="training images for the activations' ranges")] = 512
    average: Annotated[
        float | None,
        Field(ge=2, le=8, description="mean bits of a weight, in place of weights: layers get 8 to 2 by sensitivity"),
    ] = None
    rounding: Annotated[
        Literal["nearest", "adaround"],
        Field(description="of weights: to the nearest value, or with the least change of each layer's outputs"),
    ] = "nearest"
    scales: Annotated[
        Literal["channel", "tensor"],
        Field(description="of weights: one for each output channel, or one for a layer, after folding batch norms"),
    ] = "channel"
    steps: Annotated[int, Field(ge=1, le=100_000, description="of adaround's optimizer, for each layer")] = 1000
    edges: Annotated[bool, Field(description="the first and the last layer at 8 bits at least, as is usual")] = True


def needs(config: Config) -> Needs:
    learns = config.epochs > 0
    return Needs(training=True, labels=learns or config.average is not None, baseline=learns and config.distill)


def quantize(source: Source, config: Config, context: Context, forms: tuple[Form, ...]) -> dict[Form, bytes]:
    if source.module is None:
        raise Refused("bits are simulated in PyTorch; an ONNX file has no module")
    _refuse(config)
    module, per_tensor = copy.deepcopy(source.module), config.scales == "tensor"
    if per_tensor:
        folding.fold(module, tensors(context.example))
    bits = _bits(module, config, context)
    inputs = context.training.sample(config.images, context.seed)
    if config.rounding == "adaround":
        few = {name: weights for name, (weights, _) in bits.items() if weights < 32}
        source.notes["rounded_to_nearest"] = _adaround.learn(
            module, few, inputs, config.steps, per_tensor, context.report
        )
    for name, layer in list(module.named_modules()):
        if name in bits:
            fake_quant.insert_into(layer, *bits[name], per_tensor)
    fake_quant.observe(module, inputs)
    if config.average is not None:
        source.notes["judged_on"] = context.training.judged_on(HELD_OUT, context.seed)
    if config.epochs:
        _train(module, config, context)
    source.notes |= {"simulated": True, "bits": {name: list(pair) for name, pair in bits.items()}}
    exporters = {Form.FORM_ONNX: to_onnx, Form.FORM_PT2: to_pt2}
    return {form: exporters[form](module, context.example) for form in forms}


def _refuse(config: Config) -> None:
    """Raise Refused for options that exclude each other."""
    if config.rounding == "adaround" and config.epochs:
        raise Refused("adaround learns the rounding of weights that stay: give rounding: adaround or epochs")
    if config.scales == "tensor" and config.epochs:
        raise Refused("scales: tensor folds the batch norms, which training needs: give scales: tensor or epochs")
    if config.scales == "tensor" and config.average is not None:
        raise Refused("average allocates bits for scales of channels: give scales: tensor or average")


def _bits(module: nn.Module, config: Config, context: Context) -> dict[str, tuple[int, int]]:
    """For each layer the bits of its weight and of its input. Raises Refused if there is no layer to round."""
    layers = {name: m for name, m in module.named_modules() if isinstance(m, OutputsFirst)}
    if not layers:
        raise Refused("this model has no convolution and no linear layer")
    ends = (next(iter(layers)), next(reversed(layers))) if config.edges else ()
    first: dict[int, str] = {}  # weight -> the first layer that has it, which decides the bits of a shared weight
    owners = {name: first.setdefault(id(layer.weight), name) for name, layer in layers.items()}
    fixed = {owners[name] for name in ends}
    weights = dict.fromkeys(owners.values(), config.weights) | {name: max(EDGE, config.weights) for name in fixed}
    if config.average is not None:
        weights = _allocated({name: layers[name] for name in weights}, fixed, config.average, context, module)
    inputs = dict.fromkeys(layers, config.activations) | {name: max(EDGE, config.activations) for name in ends}
    return {name: (weights[owners[name]], inputs[name]) for name in layers}


def _allocated(
    layers: Mapping[str, nn.Module], ends: Collection[str], average: float, context: Context, module: nn.Module
) -> dict[str, int]:
    """Bits of each layer's weights, at most `average` on average; the layers in `ends` have EDGE bits.

    Raises Refused if the average is too low for that.
    """
    sizes = {name: cast(torch.Tensor, layer.weight).numel() for name, layer in layers.items()}
    free = [name for name in layers if name not in ends]
    wanted = (LEVELS[0] - average) * sum(sizes.values())
    if wanted > (LEVELS[0] - LEVELS[-1]) * sum(sizes[name] for name in free):
        least = EDGE - (LEVELS[0] - LEVELS[-1]) * sum(sizes[name] for name in free) / sum(sizes.values())
        raise Refused(f"with the first and last layer at {EDGE} bits, average must be at least {least:.2f}")
    noise = curves(Sensitivity(module, context, HELD_OUT).rounding(LEVELS))
    savings = {name: [(LEVELS[0] - level) * sizes[name] for level in LEVELS] for name in free}
    chosen = allocate({name: noise[name] for name in free}, LEVELS, savings, wanted)
    return dict.fromkeys(ends, EDGE) | {name: int(level) for name, level in chosen.items()}


def _train(module: nn.Module, config: Config, context: Context) -> None:
    names = {field.name for field in dataclasses.fields(Options)}
    options = Options(**{name: getattr(config, name) for name in names})
    teacher = frozen(context.baseline) if config.distill else None
    train(
        module, context.training, options, seed=context.seed, report=context.report, teacher=teacher,
        resume=context.resume,
    )  # fmt: skip
