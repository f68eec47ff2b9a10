"""What the zero-fill pruners share: which weights, and making the zeros permanent."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.nn.utils import prune

Weight = tuple[nn.Module, str]


def prunable(module: nn.Module) -> list[Weight]:
    """The weights of all convolutions and linear layers, as torch.nn.utils.prune names them."""
    layers = (m for m in module.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)))
    return [(layer, "weight") for layer in layers]


def each(module: nn.Module, method: Callable[[nn.Module, str], object]) -> None:
    """Apply a torch.nn.utils.prune method to every prunable weight and keep only its zeros."""
    for layer, name in prunable(module):
        method(layer, name)
        prune.remove(layer, name)
