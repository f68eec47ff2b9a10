"""What the zero-fill pruners share: which weights, making the zeros permanent, needing nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.utils import prune

from pqbench_compressor.plugins import Needs
from pqbench_wire.inputs import Feed

Weight = tuple[nn.Module, str]
Prunable = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear


def prunable(module: nn.Module) -> list[Weight]:
    """The weights of all convolutions and linear layers, as torch.nn.utils.prune names them."""
    return [(layer, "weight") for layer in module.modules() if isinstance(layer, Prunable)]


def each(module: nn.Module, method: Callable[[nn.Module, str], object]) -> None:
    """Apply a torch.nn.utils.prune method to every prunable weight and keep only its zeros."""
    for layer, name in prunable(module):
        method(layer, name)
        prune.remove(layer, name)


def needs(config: Any) -> Needs:
    """Zero-fill pruning looks at weights only."""
    return Needs()


def refusal(module: nn.Module, config: Any, classes: int, example: Feed) -> str:
    """It works on every model with convolutions or linear layers."""
    return "" if prunable(module) else "this model has no convolution and no linear layer"


def problem(exported: bytes, config: Any) -> str:
    """Zeros promise nothing about their places."""
    return ""
