"""Residual blocks: which submodules of a model are such, and how one is removed, so that its input passes unchanged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from pqbench_compressor.layers import Layer


def residual(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[str]:
    """The names of the residual blocks in the order of execution: submodules that add something to their input.

    A block has layers, maps one tensor to one of its shape and, with zeros for its parameters, returns its input. Of
    blocks inside each other, the innermost count; a module that runs more than once, or has two names, is none.
    """
    every = list(module.named_modules(remove_duplicate=False))
    count = Counter(m for _, m in every)
    names = {m: name for name, m in every if name and count[m] == 1 and _has_layers(m)}
    calls: dict[str, list[torch.Tensor | None]] = {}

    def note(called: nn.Module, given: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        is_plain = len(given) == 1 and not options and isinstance(given[0], torch.Tensor)
        calls.setdefault(names[called], []).append(given[0].detach().clone() if is_plain else None)

    hooks = [m.register_forward_pre_hook(note, with_kwargs=True) for m in names]
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    once = {name: given[0] for name, given in calls.items() if len(given) == 1}
    found = [
        name
        for name, given in once.items()
        if given is not None and given.any() and _returns(module.get_submodule(name), given)
    ]
    return [name for name in found if not any(other.startswith(f"{name}.") for other in found)]


def remove(module: nn.Module, name: str) -> None:
    """Replace a submodule by an identity, in place."""
    replace(module, name, nn.Identity())


def replace(module: nn.Module, name: str, by: nn.Module) -> None:
    """Put another submodule in the place `name`."""
    owner, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner), leaf, by)


def removed(module: nn.Module, unpruned: nn.Module) -> list[str]:
    """The names of the submodules that are identities in `module` and none in `unpruned`."""
    originals = dict(unpruned.named_modules())
    return [
        name
        for name, one in module.named_modules()
        if isinstance(one, nn.Identity) and not isinstance(originals.get(name), nn.Identity)
    ]


def _has_layers(module: nn.Module) -> bool:
    return not isinstance(module, Layer) and any(isinstance(part, Layer) for part in module.modules())


def _returns(block: nn.Module, given: torch.Tensor) -> bool:
    """Whether a block without its parameters returns its input."""
    zeros = {name: torch.zeros_like(parameter) for name, parameter in block.named_parameters()}
    with torch.no_grad():
        output = functional_call(block, zeros, (given.clone(),))
    return isinstance(output, torch.Tensor) and output.shape == given.shape and torch.allclose(output, given)
