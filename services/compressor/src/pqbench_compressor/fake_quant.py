"""Fake quantization in PyTorch, with the straight-through estimator (Bengio et al., arXiv 1308.3432).

Weights are rounded symmetrically, with one scale per output channel or per tensor. A layer's input is rounded
asymmetrically, to a range that `observe` measures and that training updates. Batch normalisation
after a convolution scales whole output channels, so rounding the weights per channel before export folds it
into them is the same as rounding the folded weights; per tensor it must be folded before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from pqbench_compressor.layers import OutputsFirst
from pqbench_compressor.tensors import batches
from pqbench_wire.shared.inputs import Feed

BATCH = 32
MOMENTUM = 0.05  # weight of a new batch in the moving average of an input's range


class RoundedWeight(nn.Module):
    """A parametrization that rounds a weight symmetrically, with one scale per output channel (axis 0), or one."""

    def __init__(self, bits: int, per_tensor: bool = False) -> None:
        super().__init__()
        self.largest, self._per_tensor = 2 ** (bits - 1) - 1, per_tensor

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight rounded to its grid, in the same shape."""
        flat = weight.detach().abs().flatten(1)
        if self._per_tensor:
            flat = flat.amax(0, keepdim=True).expand_as(flat)
        scale = (flat.amax(1) / max(1, self.largest)).clamp_min(1e-9)
        scale = scale.reshape(-1, *[1] * (weight.ndim - 1))
        rounded = (weight / scale).round().clamp(-self.largest, self.largest) * scale
        return _straight_through(weight, rounded) if self.training else rounded


class RoundedInput(nn.Module):
    """A forward pre-hook that rounds a layer's first input asymmetrically, with one range for the tensor."""

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.levels = 2**bits - 1
        self.watching = False
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """The layer's inputs with the first one rounded to its grid."""
        return (self.rounded(inputs[0]), *inputs[1:])

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        """`x` rounded to the grid from `low` to `high`; while watching, the range grows and `x` is not rounded."""
        if self.watching or self.training:
            self._follow(x.detach())
        if self.watching:
            return x
        scale = ((self.high - self.low) / self.levels).clamp_min(1e-9)
        zero = (-self.low / scale).round()
        rounded = (((x / scale).round() + zero).clamp(0, self.levels) - zero) * scale
        return _straight_through(x, rounded) if self.training else rounded

    def _follow(self, x: torch.Tensor) -> None:
        low, high = x.amin().clamp_max(0), x.amax().clamp_min(0)
        if self.watching:
            self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        else:
            self.low, self.high = self.low.lerp(low, MOMENTUM), self.high.lerp(high, MOMENTUM)


def insert(module: nn.Module, weights: int, activations: int) -> None:
    """Round weights and inputs of convolutions and linear layers to so many bits; 32 bits: no rounding."""
    for layer in list(module.modules()):
        if isinstance(layer, OutputsFirst):
            insert_into(layer, weights, activations)


def insert_into(layer: nn.Module, weights: int, activations: int, per_tensor: bool = False) -> None:
    """Round one layer's weight and first input to so many bits; 32 bits: no rounding."""
    if activations < 32:
        layer.add_module("rounded_input", rounded := RoundedInput(activations).eval())
        layer.register_forward_pre_hook(rounded)
    if weights < 32:
        parametrize.register_parametrization(layer, "weight", RoundedWeight(weights, per_tensor).eval(), unsafe=True)


def remove(module: nn.Module) -> None:
    """Undo `insert`, keeping the unrounded weights."""
    for layer in module.modules():
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        for key in [key for key, hook in layer._forward_pre_hooks.items() if isinstance(hook, RoundedInput)]:
            del layer._forward_pre_hooks[key]
            del layer.rounded_input


def observe(module: nn.Module, inputs: Feed) -> None:
    """Measure the range of every rounded input while the module runs on float32 [N, C, H, W] or other inputs."""
    with _watching(module), torch.no_grad():
        for part in batches(inputs, BATCH):
            module.eval()(*part)


@contextmanager
def _watching(module: nn.Module) -> Iterator[None]:
    rounded = [m for m in module.modules() if isinstance(m, RoundedInput)]
    for one in rounded:
        one.watching = True
    yield
    for one in rounded:
        one.watching = False


def _straight_through(x: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    return x + (rounded - x).detach()
