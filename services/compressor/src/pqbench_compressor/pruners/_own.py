"""Runs a user's own pruner, and checks that a checkpoint can store the result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.utils import prune as torch_prune

from pqbench_compressor.plugins import Context
from pqbench_wire.errors import Failed
from pqbench_wire.shared import own_code


def run(name: str, pruner: Any, module: nn.Module, context: Context) -> Mapping[str, Any]:
    """Call the pruner and return its notes; masks of torch.nn.utils.prune become zeros in the weights.

    Raises Failed if it raises anything, or if it adds or removes parameters or buffers.
    """
    before = set(module.state_dict())
    notes = own_code.called(name, pruner.prune, module, context)
    for layer in module.modules():
        masked = [key.removesuffix("_mask") for key, _ in layer.named_buffers(recurse=False) if key.endswith("_mask")]
        for tensor in (tensor for tensor in masked if hasattr(layer, f"{tensor}_orig")):
            torch_prune.remove(layer, tensor)
    if changed := sorted(before ^ set(module.state_dict())):
        raise Failed(
            f"{name} added or removed tensors ({changed[0]}, …): a pruner may only change values and sizes of tensors"
        )
    return notes if isinstance(notes, dict) else {}
