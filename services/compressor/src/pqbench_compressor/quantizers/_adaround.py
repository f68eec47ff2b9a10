"""Learned rounding of weights to few bits: AdaRound (Nagel et al., arXiv 2004.10568).

Whether each weight is rounded up or down is learned layer by layer, so that the layer's outputs change least. Their
squared error is a quadratic form of the rounding errors in the second moments of the layer's inputs: these are summed
over all images once, and each step of the optimizer sees all of them. The targets are the FP32 model's outputs before
the activation function. No labels are needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional

from pqbench_compressor.plugins import Report
from pqbench_compressor.tensors import batches
from pqbench_wire.shared.inputs import Feed

BATCH = 16  # images
LARGEST = 1152  # inputs of an output that are rounded with regard to each other
SHARES = torch.linspace(1, 0.5, 26)  # of a row's largest magnitude: the scales that are compared
LOW, HIGH = -0.1, 1.1  # the stretched sigmoid, clipped to 0 and 1: the paper's
RATE = 1e-2  # Adam's
PRESSURE = 3.0  # of the regularizer that drives each choice to 0 or 1, where the nearest rounding's error is 1
WARM_UP = 0.2  # share of the steps without the regularizer
FIRST_POWER, LAST_POWER = 20.0, 2.0  # of the regularizer
SMALLEST_SCALE = 1e-9


def learn(
    module: nn.Module, bits: Mapping[str, int], inputs: Feed, steps: int, per_tensor: bool, report: Report
) -> list[str]:
    """Move the weights of layers in `bits` to their grids in place; returns the names of those that it cannot learn.

    A grid is symmetric, with one scale for each output channel or, `per_tensor`, for the whole weight. Its end is in
    use, so that rounding to the nearest value with a scale from the largest magnitude gives the same weights again.
    """
    layers = {name: layer for name, layer in module.named_modules() if name in bits and _is_learnable(layer)}
    weights = {layer.weight: name for name, layer in reversed(layers.items())}  # the first layer of a shared weight
    moments = _second_moments(module, {layer: weights[layer.weight] for layer in layers.values()}, inputs, report)
    for index, (weight, name) in enumerate(reversed(weights.items())):
        report("learn rounding", index / len(weights), name)
        rows = weight.detach().reshape(len(moments[name]), -1, weight[0].numel())
        found = rounded(rows, moments[name], bits[name], steps, per_tensor)
        with torch.no_grad():
            weight.copy_(found.reshape(weight.shape))
    return [name for name in bits if name not in layers]


def rounded(weight: torch.Tensor, moments: torch.Tensor, bits: int, steps: int, per_tensor: bool) -> torch.Tensor:
    """The weight float32 [groups, outputs of one, inputs] on its grid.

    `moments`: E[x xᵀ] float32 [groups, inputs, inputs] of its inputs.
    """
    end = 2 ** (bits - 1) - 1
    scale = _scales(weight, moments.diagonal(dim1=1, dim2=2)[:, None], end, per_tensor)
    values = torch.stack([_of_group(*group, end, steps) for group in zip(weight, moments, scale, strict=True)])
    ends = weight.abs() == _largest(weight, per_tensor)
    return torch.where(ends, weight.sign() * end, values) * scale


def _of_group(weight: torch.Tensor, moments: torch.Tensor, scale: torch.Tensor, end: int, steps: int) -> torch.Tensor:
    pieces = zip(weight.split(LARGEST, 1), _diagonal_pieces(moments), strict=True)
    return torch.cat([_learned(piece, own, scale, end, steps) for piece, own in pieces], 1)


def _learned(weight: torch.Tensor, moments: torch.Tensor, scale: torch.Tensor, end: int, steps: int) -> torch.Tensor:
    """The integers of a weight, each the next below or above."""
    below = (weight / scale).floor()
    nearest = (weight / scale).round().clamp(-end, end)
    before = _error(nearest * scale - weight, moments).clamp_min(1e-20)
    choice = _logit(weight / scale - below).requires_grad_()
    optimizer = torch.optim.Adam([choice], lr=RATE)
    for step in range(steps):
        up = _share_up(choice)
        loss = _error((below + up).clamp(-end, end) * scale - weight, moments) / before
        if (progress := step / steps) >= WARM_UP:
            progress = (progress - WARM_UP) / (1 - WARM_UP)
            power = LAST_POWER + (FIRST_POWER - LAST_POWER) * 0.5 * (1 + math.cos(math.pi * progress))
            loss = loss + PRESSURE * (1 - (2 * up - 1).abs().pow(power)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    values = (below + (_share_up(choice.detach()) > 0.5)).clamp(-end, end)
    return values if _error(values * scale - weight, moments) < before else nearest


def _share_up(choice: torch.Tensor) -> torch.Tensor:
    return (choice.sigmoid() * (HIGH - LOW) + LOW).clamp(0, 1)


def _logit(share: torch.Tensor) -> torch.Tensor:
    """The choices for which `_share_up` is `share`."""
    return torch.logit((share - LOW) / (HIGH - LOW))


def _error(change: torch.Tensor, moments: torch.Tensor) -> torch.Tensor:
    """The mean squared change of the outputs, summed over them."""
    return ((change @ moments) * change).sum()


def _scales(weight: torch.Tensor, importance: torch.Tensor, end: int, per_tensor: bool) -> torch.Tensor:
    """The scales [groups, outputs of one, 1] with the least error to the nearest value.

    Of an error, each input counts by its moment, `importance` [groups, 1, inputs].
    """
    largest = _largest(weight, per_tensor).expand(*weight.shape[:2], 1)
    best, least = torch.empty_like(largest), torch.full_like(largest, torch.inf)
    for share in SHARES:
        scale = (share * largest / end).clamp_min(SMALLEST_SCALE)
        squares = ((weight / scale).round().clamp(-end, end) * scale - weight).square().mul(importance)
        error = (squares.sum() if per_tensor else squares.sum(2, keepdim=True)).expand_as(largest)
        best = torch.where(error < least, scale, best)
        least = torch.minimum(error, least)
    return best


def _largest(weight: torch.Tensor, per_tensor: bool) -> torch.Tensor:
    """The largest magnitude of each row [groups, outputs of one, 1], or of the whole weight [1, 1, 1]."""
    return weight.abs().amax((0, 1, 2) if per_tensor else 2, keepdim=True)


def _diagonal_pieces(moments: torch.Tensor) -> Iterator[torch.Tensor]:
    for start in range(0, len(moments), LARGEST):
        yield moments[start : start + LARGEST, start : start + LARGEST]


def _is_learnable(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros")


def _second_moments(
    module: nn.Module, layers: Mapping[nn.Module, str], inputs: Feed, report: Report
) -> dict[str, torch.Tensor]:
    """By name E[x xᵀ] float32 [groups, inputs of an output, the same], while `inputs` run through the module.

    Layers with the same name are summed.
    """
    sums: dict[str, torch.Tensor] = {}
    done = 0
    with _watching(layers, sums), torch.no_grad():
        for part in batches(inputs, BATCH):
            module.eval()(*part)
            done += len(part[0])
            report("sum moments", done / len(inputs), f"{len(inputs)} images")
    return {name: (total / done).float() for name, total in sums.items()}


@contextmanager
def _watching(layers: Mapping[nn.Module, str], sums: dict[str, torch.Tensor]) -> Iterator[None]:
    """Add what each layer receives to `sums`."""

    def adding(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def add(layer: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            columns = _columns(layer, given[0])
            found = torch.bmm(columns, columns.transpose(1, 2)).double()
            sums[name] = sums[name] + found if name in sums else found

        return add

    hooks = [layer.register_forward_pre_hook(adding(name)) for layer, name in layers.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _columns(layer: nn.Module, given: torch.Tensor) -> torch.Tensor:
    """What each output sees: [groups, inputs of one, examples and positions]."""
    if isinstance(layer, nn.Linear):
        return given.movedim(-1, 0).flatten(1)[None]
    assert isinstance(layer, nn.Conv2d)
    padded = functional.pad(given, layer._reversed_padding_repeated_twice)
    unfolded = functional.unfold(padded, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)
    return unfolded.transpose(0, 1).reshape(layer.groups, -1, unfolded.shape[0] * unfolded.shape[2])
