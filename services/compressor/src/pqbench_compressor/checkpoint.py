"""Checkpoints, which hold a model between two steps: safetensors with weights and, in the header, the history.

A pruned architecture is stored as the names of the blocks that were removed, and the integer attributes of its modules
(channels, features, heads) that differ from the unpruned model's, and is rebuilt by them. No pickle is used, and
loading is strict: all names and shapes must match.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from pqbench_compressor import blocks, masks
from pqbench_wire.errors import InvalidInput, first_line

BROKEN = (KeyError, TypeError, AttributeError, ValueError, RuntimeError, RecursionError, OSError, SafetensorError)

Structure = dict[str, dict[str, Any]]  # module name -> attribute -> integer or list of integers
History = list[dict[str, Any]]  # the steps applied so far


def save(module: nn.Module, unpruned: nn.Module, history: History) -> bytes:
    """A checkpoint's bytes; equal models with equal histories give equal bytes."""
    header = {
        "structure": structure_of(module, unpruned), "removed": blocks.removed(module, unpruned),
        "history": history, "pruned": masks.pruned(module),
    }  # fmt: skip
    state = {name: tensor.detach().contiguous().clone() for name, tensor in module.state_dict().items()}
    return safetensors.torch.save(state, {"pqbench": json.dumps(header, sort_keys=True)})


def load(path: Path, unpruned: nn.Module) -> History:
    """Turn `unpruned` into the checkpoint's model, in place; returns its history.

    Raises InvalidInput if the file is damaged or belongs to another model.
    """
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["pqbench"])
        for name in header.get("removed", ()):
            blocks.remove(unpruned, name)
        _reshape(unpruned, header["structure"], state := safetensors.torch.load_file(path))
        versioned = OrderedDict(state)  # with module versions: without them, some modules convert it as an old file
        versioned._metadata = getattr(unpruned.state_dict(), "_metadata", {})  # type: ignore[attr-defined]
        unpruned.load_state_dict(versioned)
        masks.mark(unpruned, header.get("pruned", ()))
        return [{"kind": str(one["kind"]), "plugin": str(one["plugin"]), "config": one["config"]}
                for one in header["history"]]  # fmt: skip
    except BROKEN as error:
        raise InvalidInput(f"not a checkpoint of this model: {type(error).__name__}: {first_line(error)}") from error


def structure_of(module: nn.Module, unpruned: nn.Module) -> Structure:
    """The integer attributes by which `module` differs from `unpruned`."""
    structure: Structure = {}
    originals = dict(unpruned.named_modules())
    for name, changed in module.named_modules():
        before = _integers(originals[name])
        if delta := {key: value for key, value in _integers(changed).items() if before.get(key) != value}:
            structure[name] = delta
    return structure


def _is_like(value: Any, known: Any) -> bool:
    """Whether a value is an integer or, if the known one is a list, a list of as many integers."""
    if isinstance(known, list):
        return isinstance(value, list) and len(value) == len(known) and all(type(one) is int for one in value)
    return type(value) is int


def _integers(module: nn.Module) -> dict[str, Any]:
    def kept(value: object) -> bool:
        parts = value if isinstance(value, (tuple, list)) else [value]
        return bool(parts) and all(isinstance(part, int) and not isinstance(part, bool) for part in parts)

    public = {key: value for key, value in vars(module).items() if not key.startswith("_") and kept(value)}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in public.items()}


def _reshape(module: nn.Module, structure: Structure, state: dict[str, torch.Tensor]) -> None:
    modules = dict(module.named_modules())
    for name, delta in structure.items():
        known = _integers(modules[name])
        for key, value in delta.items():
            if not _is_like(value, known[key]):
                raise ValueError(f"{name}.{key} cannot be {str(value)[:80]}")
            setattr(modules[name], key, type(getattr(modules[name], key))(value))
    for name, tensor in state.items():
        owner, _, leaf = name.rpartition(".")
        current = getattr(modules[owner], leaf)
        if current.shape == tensor.shape:
            continue
        empty = torch.empty_like(tensor)
        setattr(modules[owner], leaf, nn.Parameter(empty) if isinstance(current, nn.Parameter) else empty)
