"""Records which parameters pruning zeroed, so that their zeros stay zero in later training.

The names of the pruned parameters are stored on the module, and checkpoints carry them from step to step. Masks are not
stored: in a pruned parameter, every zero counts as pruned.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.utils import parametrize

PRUNED = "pqbench_pruned"  # attribute of a module: names of the tensors that pruning zeroed


def mark(module: nn.Module, names: Iterable[str]) -> None:
    """Note that pruning zeroed parts of these parameters."""
    setattr(module, PRUNED, sorted({*pruned(module), *names}))


def pruned(module: nn.Module) -> list[str]:
    """The names of the parameters that pruning zeroed parts of."""
    return list(getattr(module, PRUNED, []))


def zeros(module: nn.Module) -> dict[str, int]:
    """How many zeros each parameter has."""
    return {name: p.numel() - int(torch.count_nonzero(p)) for name, p in module.named_parameters()}


def mark_new_zeros(module: nn.Module, before: dict[str, int]) -> None:
    """Mark the parameters that have more zeros than `before`, for a pruner that does not say which it pruned."""
    mark(module, (name for name, count in zeros(module).items() if count > before.get(name, count)))


def of(module: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each pruned parameter with its 0/1 mask; for a parametrized one, the original tensor that is trained."""
    found = [_parameter(module, name) for name in pruned(module)]
    return [(parameter, (parameter.detach() != 0).to(parameter.dtype)) for parameter in found]


def _parameter(module: nn.Module, name: str) -> torch.Tensor:
    owner, _, leaf = name.rpartition(".")
    layer = module.get_submodule(owner)
    if parametrize.is_parametrized(layer, leaf):
        original: torch.Tensor = layer.parametrizations[leaf].original  # type: ignore[union-attr,index]
        return original
    parameter: torch.Tensor = getattr(layer, leaf)
    return parameter
