"""Shared code of the zero-fill pruners: choosing weights, zeroing them, reporting weights left unpruned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils.prune import BasePruningMethod

from pqbench_compressor import masks
from pqbench_compressor.layers import Layer, Transposed
from pqbench_compressor.modules import unfolded
from pqbench_compressor.plugins import Needs
from pqbench_wire.shared.inputs import Feed

Weight = tuple[nn.Module, str]  # a layer and the name of one of its weights
JOINT = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")  # of nn.MultiheadAttention


def prunable(module: nn.Module) -> list[Weight]:
    """The weights of convolutions, linear, bilinear, attention and recurrent layers; a shared weight only once."""
    seen: set[int] = set()
    found = []
    for layer in module.modules():
        for name in _names(layer):
            weight = getattr(layer, name)
            if id(weight) not in seen:
                seen.add(id(weight))
                found.append((layer, name))
    return found


def _names(layer: nn.Module) -> Iterator[str]:
    if isinstance(layer, Layer | nn.Bilinear):
        yield "weight"
    elif isinstance(layer, nn.MultiheadAttention):
        yield from (name for name in JOINT if getattr(layer, name, None) is not None)
    elif isinstance(layer, nn.RNNBase):
        yield from (name for name, _ in layer.named_parameters(recurse=False) if name.startswith("weight"))


def each(module: nn.Module, method: BasePruningMethod, dim: int | None = None) -> dict[str, Any]:
    """Zero what a method of torch.nn.utils.prune selects in every prunable weight; returns notes for the result.

    `dim` is for methods that select channels: 0 for a layer's outputs, 1 for its inputs.
    """
    weights = prunable(module)
    for layer, name in weights:
        weight = getattr(layer, name).detach()
        if dim is not None:
            method.dim = 1 - dim if isinstance(layer, Transposed) else dim  # type: ignore[attr-defined]
        zero(module, layer, name, method.compute_mask(weight, torch.ones_like(weight)))
    return report(module, weights)


def zero(module: nn.Module, layer: nn.Module, name: str, mask: torch.Tensor) -> None:
    """Multiply a layer's weight by a 0/1 mask and mark it as pruned, in place: a shared weight stays shared."""
    weight = getattr(layer, name)
    with torch.no_grad():
        weight.mul_(mask.to(weight.dtype))
    masks.mark(module, (full for full, p in module.named_parameters() if p is weight))


def report(module: nn.Module, weights: Iterable[Weight]) -> dict[str, Any]:
    """Notes for the result: which weights were not pruned, and the share of zeros among all parameters.

    `weights` are the pruned ones. The notes are empty if no others exist.
    """
    left = left_out(module, weights)
    if not left:
        return {}
    parameters = list(module.parameters())
    zeros = sum(p.numel() - int(torch.count_nonzero(p)) for p in parameters)
    return {"left_out": list(left), "zeros_of_all": zeros / sum(p.numel() for p in parameters)}


def left_out(module: nn.Module, weights: Iterable[Weight]) -> dict[str, nn.Parameter]:
    """The parameters of two and more axes that are not among `weights`, by name."""
    looked_at = {id(getattr(layer, name)) for layer, name in weights}
    return {name: p for name, p in module.named_parameters() if p.ndim > 1 and id(p) not in looked_at}


def needs(config: Any) -> Needs:
    """Zero-fill pruning needs no data."""
    return Needs()


def refusal(module: nn.Module, config: Any, classes: int, example: Feed) -> str:
    """Why zeros would have no effect in this model, or that it has no weights to prune; empty if it works."""
    return unfolded(module) or ("" if prunable(module) else "this model has no convolution and no linear layer")


def problem(exported: bytes, module: nn.Module, config: Any) -> str:
    """Always empty: there is no pattern of zeros that an export could lose."""
    return ""
