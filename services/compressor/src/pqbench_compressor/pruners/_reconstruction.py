"""What a model's outputs lose when a channel goes and the layers that read it are refitted without it.

Optimal Brain Surgeon for whole channels (Hassibi and Stork, 1992; for structures, ZipLM, Kurtic et al., arXiv
2302.04089). With H the covariance of a layer's inputs and W its weights, the least squared error that is left without
the inputs c is that of W_c (H^-1_cc)^-1 W_c^T. Inputs are taken away one after the other, the cheapest first, and W and
H^-1 updated: of two channels that say the same, only the first is cheap. Each output's error is weighted by the squared
gradient of the model's outputs, mixed at random, so that the errors of all layers are in one unit. No labels are used.
In layers of over LARGEST inputs, each counts for itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pqbench_compressor.regression import LARGEST
from pqbench_compressor.sampling import grid
from pqbench_compressor.tensors import leaves

RIDGE = 1e-3  # of the inputs' mean variance, as by default in `compensate`
MOST_STEPS = 256  # of a layer with more inputs, several are taken away at once

Reader = nn.Conv2d | nn.Linear


def losses(module: nn.Module, parts: Iterable[tuple[torch.Tensor, ...]], seed: int) -> dict[Reader, torch.Tensor]:
    """For each ungrouped 2-D convolution and product, what each of its inputs costs: float64 [inputs].

    `parts`: batches of the model's inputs. The costs of a layer add up to its whole error in the order in which its
    inputs would be taken away; they never fall in that order. Leaves gradients in the parameters.
    """
    readers = [m for m in module.modules() if isinstance(m, Reader) and getattr(m, "groups", 1) == 1]
    parts = list(parts)
    images, generator = sum(len(part[0]) for part in parts), torch.Generator().manual_seed(seed)
    seen = {reader: _Seen(reader, images, generator) for reader in readers}
    with _watched(seen):
        for part in parts:
            outputs = [output for output in leaves(module(*part)) if output.requires_grad]
            mixture = [torch.randn(output.shape, generator=generator) for output in outputs]
            torch.autograd.backward(outputs, mixture)
    return {reader: one.losses() for reader, one in seen.items() if one.positions}


@contextmanager
def _watched(seen: dict[Reader, _Seen]) -> Iterator[None]:
    def on_output(layer: Any, inputs: Any, output: torch.Tensor) -> None:
        seen[layer].add(inputs[0].detach(), output.shape)
        output.register_hook(seen[layer].weigh)

    hooks = [reader.register_forward_hook(on_output) for reader in seen]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Seen:
    """The covariance of a layer's inputs, and the squared gradients at its outputs."""

    def __init__(self, layer: Reader, images: int, generator: torch.Generator) -> None:
        self._layer, self._images, self._generator = layer, images, generator
        columns = layer.weight[0].numel()
        self._is_large = columns > LARGEST
        self._xx = torch.zeros(columns if self._is_large else (columns, columns), dtype=torch.float64)
        self._x = torch.zeros(columns, dtype=torch.float64)
        self._squares = torch.zeros(len(layer.weight), dtype=torch.float64)
        self.positions = 0

    def add(self, inputs: torch.Tensor, outputs: torch.Size) -> None:
        """Add a batch of inputs, at a sample of the positions of the outputs."""
        columns = self._columns(inputs, outputs)
        self._xx += (columns.square().sum(1) if self._is_large else columns @ columns.T).double()
        self._x += columns.sum(1).double()
        self.positions += columns.shape[1]

    def weigh(self, gradient: torch.Tensor) -> None:
        """Add the gradients at a batch of outputs."""
        axis = 1 if isinstance(self._layer, nn.Conv2d) else -1
        self._squares += gradient.movedim(axis, 0).flatten(1).square().sum(1).double()

    def _columns(self, inputs: torch.Tensor, outputs: torch.Size) -> torch.Tensor:
        """What each output sees: [inputs of one, examples and positions]."""
        layer = self._layer
        if isinstance(layer, nn.Linear):
            return inputs.movedim(-1, 0).flatten(1)
        padded = functional.pad(inputs, layer._reversed_padding_repeated_twice)  # also where padding is "same"
        chosen = grid(outputs, self._images, layer.weight[0].numel(), self._generator)
        return chosen.columns(padded, layer.kernel_size, layer.stride, layer.dilation)

    def losses(self) -> torch.Tensor:
        mean = self._x / self.positions
        weight = self._layer.weight.detach().flatten(1).double() * self._squares.sqrt()[:, None]
        if self._is_large:
            variances = (self._xx / self.positions - mean.square()).clamp_min(0)
            return (weight.square().sum(0) * variances).reshape(self._layer.weight.shape[1], -1).sum(1)
        covariance = self._xx / self.positions - mean[:, None] * mean
        # From few positions, as after pooling, a covariance says that inputs can be told from each other by chance.
        ridge = max(RIDGE, len(mean) / self.positions)
        covariance.diagonal().add_(ridge * covariance.diagonal().mean().clamp_min(1e-12))
        return _taken_away(torch.linalg.inv(covariance), weight, self._layer.weight.shape[1])


def _taken_away(inverse: torch.Tensor, weight: torch.Tensor, count: int) -> torch.Tensor:
    """The cost of each of `count` inputs; each is a block of columns of `weight` and of the covariance's `inverse`."""
    size = weight.shape[1] // count
    found, left = torch.zeros(count, dtype=torch.float64), torch.arange(count)
    highest = torch.zeros((), dtype=torch.float64)
    while len(left):
        blocks = inverse.reshape(count, size, count, size)[left, :, left]
        parts = weight.reshape(-1, count, size)[:, left].permute(1, 2, 0)  # [left, size, outputs]
        costs = (torch.linalg.solve(blocks, parts) * parts).sum((1, 2))
        order = costs.argsort()
        going = order[: -(-count // MOST_STEPS)]
        highest = torch.maximum(highest, costs[going].max())
        found[left[going]] = highest
        columns = (left[going][:, None] * size + torch.arange(size)).flatten()
        update = torch.linalg.solve(inverse[columns][:, columns], inverse[columns])
        weight = weight - weight[:, columns] @ update
        inverse = inverse - inverse[:, columns] @ update
        left = left[order[len(going) :].sort().values]
    return found
