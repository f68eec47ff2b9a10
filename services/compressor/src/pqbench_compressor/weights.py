"""Loads a user's file of weights: finds the state dict in it, compares it with the model, and loads it strictly.

Training scripts wrap state dicts ({"state_dict": …, "epoch": …}, an averaged copy beside it) and prefix names
(DataParallel's "module.", torch.compile's "_orig_mod.", Lightning's "model."). If a file holds several state dicts, a
note says which one was taken.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from pqbench_wire.catalog import unknown
from pqbench_wire.errors import InvalidInput, first_line

CONTAINERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params", "module")
AVERAGED = ("ema", "model_ema", "ema_state_dict", "state_dict_ema", "ema_model", "params_ema")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")
COUNTERS = "num_batches_tracked"  # of batch normalisation, which older files lack
MANY = 3  # differences that an error message lists


def load(path: Path, module: nn.Module, key: str = "") -> str:
    """Load a safetensors or .pth file into `module`, strictly; `key` chooses among several state dicts in the file.

    Returns a note on which state dict was taken, empty if there was no choice. Raises InvalidInput if it is not a file
    of weights, holds code, does not fit the module, or has numbers that are not finite.
    """
    found, note = _chosen(_content(path), key)
    if bad := next((name for name, tensor in found.items() if not _is_finite(tensor)), None):
        raise InvalidInput(f"weights: {bad} has values that are not finite (NaN or infinity)")
    state = _renamed(found, module)
    try:
        left = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise InvalidInput(f"weights do not fit: {_other_shapes(str(error))}") from error
    missing = [name for name in left.missing_keys if not name.endswith(COUNTERS)]
    if missing or left.unexpected_keys:
        groups = ((missing, "missing"), (left.unexpected_keys, "unexpected"))
        raise InvalidInput(f"weights do not fit: {'; '.join(_few(names, what) for names, what in groups if names)}")
    return note


def _few(names: list[str], what: str) -> str:
    return f"{len(names)} {what} ({', '.join(names[:MANY])}{', …' if len(names) > MANY else ''})"


def state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a file, without DataParallel's prefix "module.". Raises InvalidInput if there is none."""
    found = _chosen(_content(path), "")[0]
    return {name.removeprefix("module."): tensor for name, tensor in found.items()}


def _other_shapes(text: str) -> str:
    """PyTorch's error about tensors of other shapes, in short, with what to do if only the classifier differs."""
    found = re.findall(r"size mismatch for (\S+): .*?torch\.Size\(\[(.*?)\]\).*?torch\.Size\(\[(.*?)\]\)", text)
    parts = [f"{name} is [{given}], the model's [{own}]" for name, given, own in found[:MANY]]
    classes = {
        given.partition(", ")[0] for _, given, own in found if given.partition(", ")[2] == own.partition(", ")[2]
    }
    if 1 <= len(found) <= 2 and len(classes) == 1:
        count = classes.pop()
        parts.append(
            f"for a model of {count} classes, set config: {{classes: {count}}}, or build your own with {count}"
        )
    return "; ".join(parts) or " ".join(text.split())[:300]


def _content(path: Path) -> Any:
    with path.open("rb") as file:
        begin = file.read(9)
    if begin[8:] == b"{":  # safetensors: the JSON header follows its length in 8 bytes
        try:
            return safetensors.torch.load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise InvalidInput(f"weights: not a safetensors file: {first_line(error)}") from error
    if _is_program(path):
        raise InvalidInput("weights: this is a TorchScript or exported program, which is code; save its state_dict()")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InvalidInput(
            "weights: this file holds Python objects, as torch.save(model) writes them; they are code and are not "
            "loaded: save model.state_dict(), or write it as safetensors"
        ) from error
    except Exception as error:  # torch.load raises unrelated types for a broken zip and a truncated file
        raise InvalidInput("weights: neither a safetensors file nor a whole PyTorch file") from error


def _is_program(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):  # not a readable zip archive
        return False
    return any("/code/" in name or name.endswith(("constants.pkl", "models/model.json")) for name in names)


def _chosen(content: Any, key: str) -> tuple[Mapping[str, torch.Tensor], str]:
    """The state dict in a file's content, and a note if the file holds others; `key` names the one to take."""
    if not isinstance(content, dict):
        raise InvalidInput(f"weights: the file holds a {type(content).__name__}, not a state dict")
    if key:
        if key not in content:
            raise InvalidInput(f"weights_key: {unknown('key', key, [str(name) for name in content])}")
        return _state_dict(content[key], key), ""
    if _is_state_dict(content):
        return content, ""
    usual = [name for name in CONTAINERS if _is_state_dict(content.get(name))]
    averaged = [name for name in AVERAGED if _is_state_dict(content.get(name))]
    others = [name for name, value in content.items() if _is_state_dict(value) and name not in (*usual, *averaged)]
    candidates = [*usual, *averaged, *others]
    if not candidates:
        keys = ", ".join(str(name) for name in content)[:200]
        raise InvalidInput(f"weights: no state dict of tensors among the file's keys {keys}")
    taken, *left = candidates
    note = f"weights are taken from {taken!r}; the file also has {', '.join(left)} (weights_key)" if left else ""
    return content[taken], note


def _state_dict(value: Any, key: str) -> Mapping[str, torch.Tensor]:
    if not _is_state_dict(value):
        raise InvalidInput(f"weights_key: {key} is a {type(value).__name__}, not a state dict of tensors")
    return value


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(one, torch.Tensor) for one in value.values())


def _renamed(state: Mapping[str, torch.Tensor], module: nn.Module) -> OrderedDict[str, torch.Tensor]:
    """The state under the module's own names: prefixes such as "module." are removed until some names match.

    Module versions are kept: some modules convert what an older version of them saved.
    """
    wanted, names = set(module.state_dict()), list(state)
    stripped = ""
    while not wanted & set(names):
        prefix = next((one for one in PREFIXES if all(name.startswith(one) for name in names)), "")
        if not prefix:
            break
        names, stripped = [name.removeprefix(prefix) for name in names], stripped + prefix
    if not wanted & set(names):  # the file has other parts besides the model: an optimizer's, a loss's
        prefix = next((one for one in PREFIXES if any(name.removeprefix(one) in wanted for name in names)), "")
        names, stripped = [name.removeprefix(prefix) for name in names], stripped + prefix
    renamed = OrderedDict(zip(names, state.values(), strict=True))
    versions = getattr(state, "_metadata", None)  # of a .pth file; safetensors keeps none
    if versions is None:
        versions = getattr(module.state_dict(), "_metadata", {})
    outer = stripped.removesuffix(".")
    renamed._metadata = {  # type: ignore[attr-defined]
        name.removeprefix(outer).removeprefix("."): value for name, value in versions.items()
    }
    return renamed


def _is_finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
