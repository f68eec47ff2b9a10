"""A user's own model: `path/to/file.py:function`, where the function returns a torch module.

The file runs in the compressor's process, only where it was started with --allow-code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench_compressor.plugins import Context, Files, ModelInfo
from pqbench_wire import own_code
from pqbench_wire.errors import InvalidInput, Refused

REQUIRES = ("torch",)
OWN = True  # a user's module: it is run once while planning


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the function is called with."""

    arguments: dict[str, Any] | None = None  # keyword arguments


def names() -> tuple[str, ...]:
    return ("path/to/file.py:function",)


def info(name: str, config: Config, files: Files) -> ModelInfo:
    if not files.allow_code:
        raise Refused(f"model function {name!r} is your own code: allow it with --allow-code")
    return ModelInfo(preprocessing=Preprocessing(), classes=0)


def build(name: str, config: Config, files: Files) -> nn.Module:
    function = own_code.load(files.code, name, files.allow_code)
    module = own_code.called(f"model function {name}", function, **(config.arguments or {}))
    if not isinstance(module, nn.Module):
        raise InvalidInput(f"model function {name!r} returns a {type(module).__name__}, not a torch.nn.Module")
    return module


def pretrained(name: str, config: Config, files: Files, context: Context) -> nn.Module:
    """What the function returns: it may load weights of its own."""
    return build(name, config, files)
