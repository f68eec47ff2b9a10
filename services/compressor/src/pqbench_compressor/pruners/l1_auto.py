"""Zero the smallest weights of each layer, with shares allocated to the layers by a sensitivity analysis.

Every layer's sensitivity is measured on held-out training images (Li et al., arXiv 1608.08710). Then
the layers' shares are raised step by step where this adds the least noise, until together they reach
`amount`. Only ordinary convolutions and linear layers are pruned and counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from pqbench_compressor.layers import OutputsFirst
from pqbench_compressor.modules import unfolded
from pqbench_compressor.plugins import Context, Needs
from pqbench_compressor.pruners._zero_fill import problem as problem
from pqbench_compressor.pruners._zero_fill import report, zero
from pqbench_compressor.sensitivity import Sensitivity, allocate, curves, mask
from pqbench_wire.shared.inputs import Feed

REQUIRES = ("torch",)
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True, kw_only=True)
class Config:
    """How much to prune, and on how many images sensitivity is measured."""

    amount: Annotated[float, Field(ge=0, lt=0.95, description="share of all weights to zero")]
    images: Annotated[int, Field(ge=1, description="held-out training images for the analysis")] = 256


def needs(config: Config) -> Needs:
    return Needs(training=True, labels=True)


def refusal(module: nn.Module, config: Config, classes: int, example: Feed) -> str:
    """Why the model has no layer whose sensitivity can be measured; empty if it has one."""
    layers = [m for m in module.modules() if isinstance(m, OutputsFirst)]
    return unfolded(module) or ("" if layers else "this model has no ordinary convolution and no linear layer")


def prune(module: nn.Module, config: Config, context: Context) -> Mapping[str, Any]:
    analysis = Sensitivity(module, context, config.images)
    noise = {layer: [0.0, *worse] for layer, worse in curves(analysis.pruning(SHARES[1:])).items()}
    sizes = {name: layer.weight.numel() for name, layer in analysis.layers.items()}
    savings = {name: [share * size for share in SHARES] for name, size in sizes.items()}
    wanted = config.amount * sum(sizes.values())
    shares = _exact(allocate(noise, SHARES, savings, wanted), sizes, wanted)
    for name, layer in analysis.layers.items():
        zero(module, layer, "weight", mask(layer.weight, shares[name]))
    notes = {"shares": shares, "judged_on": context.training.judged_on(config.images, context.seed)}
    return notes | report(module, [(layer, "weight") for layer in analysis.layers.values()])


def _exact(shares: dict[str, float], sizes: dict[str, int], wanted: float) -> dict[str, float]:
    """The shares scaled by a common factor to prune exactly `wanted` weights: whole steps prune slightly more."""
    pruned = sum(shares[layer] * size for layer, size in sizes.items())
    return {layer: share * wanted / pruned if pruned else 0.0 for layer, share in shares.items()}
