"""What the zero-fill pruners share: which weights, making zeros that stay, saying what they left out."""

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
from pqbench_wire.inputs import Feed

Weight = tuple[nn.Module, str]  # a layer and the name of one of its weights
JOINT = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")  # of nn.MultiheadAttention


def prunable(module: nn.Module) -> list[Weight]:
    """The weights of convolutions, linear layers, attention and recurrent layers, each once where layers share one."""
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
    """Zero what a method of torch.nn.utils.prune picks of every prunable weight; returns what is worth reporting.

    `dim`: of a method that picks channels: 0 for a layer's outputs, 1 for its inputs.
    """
    weights = prunable(module)
    for layer, name in weights:
        weight = getattr(layer, name).detach()
        if dim is not None:
            method.dim = 1 - dim if isinstance(layer, Transposed) else dim  # type: ignore[attr-defined]
        zero(module, layer, name, method.compute_mask(weight, torch.ones_like(weight)))
    return report(module, weights)


def zero(module: nn.Module, layer: nn.Module, name: str, mask: torch.Tensor) -> None:
    """Multiply a weight of a module's layer by a 0/1 mask, in place: layers that share it go on sharing it."""
    weight = getattr(layer, name)
    with torch.no_grad():
        weight.mul_(mask.to(weight.dtype))
    masks.mark(module, (full for full, p in module.named_parameters() if p is weight))


def report(module: nn.Module, weights: Iterable[Weight]) -> dict[str, Any]:
    """The weights besides `weights`, which were pruned, where there are any, and the share of zeros among all."""
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
    """Zero-fill pruning looks at weights only."""
    return Needs()


def refusal(module: nn.Module, config: Any, classes: int, example: Feed) -> str:
    """It works on every model with weights that are executed as they are stored."""
    return unfolded(module) or ("" if prunable(module) else "this model has no convolution and no linear layer")


def problem(exported: bytes, module: nn.Module, config: Any) -> str:
    """Zeros promise nothing about their places."""
    return ""
