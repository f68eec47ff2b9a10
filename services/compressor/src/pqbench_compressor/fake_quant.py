"""Rounding to few bits inside PyTorch, with gradients passed straight through (Bengio et al., arXiv 1308.3432).

Weights are rounded per output channel, signed and symmetric; a layer's input is rounded to a range
that `observe` measured or training moves along. A batch normalisation after a convolution scales
whole output channels, so rounding before it is the same as rounding what export folds it into.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from pqbench_compressor.layers import OutputsFirst
from pqbench_compressor.tensors import batches
from pqbench_wire.inputs import Feed

BATCH = 32
MOMENTUM = 0.05  # how fast an input's range follows training


class RoundedWeight(nn.Module):
    """A parametrization: symmetric, per output channel."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.largest = 2 ** (bits - 1) - 1

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight on its grid, of the same shape."""
        flat = weight.detach().abs().flatten(1)
        scale = (flat.amax(1) / max(1, self.largest)).clamp_min(1e-9)
        scale = scale.reshape(-1, *[1] * (weight.ndim - 1))
        rounded = (weight / scale).round().clamp(-self.largest, self.largest) * scale
        return _straight_through(weight, rounded) if self.training else rounded


class RoundedInput(nn.Module):
    """A forward pre-hook: asymmetric, one range for the tensor."""

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.levels = 2**bits - 1
        self.watching = False
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """The layer's inputs with the first one on its grid."""
        return (self.rounded(inputs[0]), *inputs[1:])

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        """`x` on the grid between low and high; while watching, the range grows and `x` stays."""
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


def insert(module: nn.Module, weights: int, activations: int, keep: Callable[[str], bool] = lambda _: False) -> None:
    """Round weights and inputs of every convolution and linear layer; 32 bits: leave as they are."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, OutputsFirst) and not keep(name):
            insert_into(layer, weights, activations)


def insert_into(layer: nn.Module, weights: int, activations: int) -> None:
    """Round one layer's weight and input."""
    if activations < 32:
        layer.add_module("rounded_input", rounded := RoundedInput(activations).eval())
        layer.register_forward_pre_hook(rounded)
    if weights < 32:
        parametrize.register_parametrization(layer, "weight", RoundedWeight(weights).eval(), unsafe=True)


def remove(module: nn.Module) -> None:
    """Undo `insert`, keeping the unrounded weights."""
    for layer in module.modules():
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        for key in [key for key, hook in layer._forward_pre_hooks.items() if isinstance(hook, RoundedInput)]:
            del layer._forward_pre_hooks[key]
            del layer.rounded_input


def observe(module: nn.Module, inputs: Feed) -> None:
    """Measure the range of every rounded input over float32 [N, C, H, W]."""
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
