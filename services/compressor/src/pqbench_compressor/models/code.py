"""A user's own model: `path/to/file.py:function`, where the function returns a torch module.

The file runs in the compressor's worker process, and only if the compressor was started with --allow-code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench_compressor.plugins import Context, Files, ModelInfo
from pqbench_wire.errors import InvalidInput, Refused
from pqbench_wire.shared import own_code

REQUIRES = ("torch",)
OWN = True  # a user's module: it is run while planning, to check it


@dataclass(frozen=True, kw_only=True)
class Config:
    """The arguments of the function."""

    arguments: dict[str, Any] | None = None  # keyword arguments


def names() -> tuple[str, ...]:
    return ("path/to/file.py:function",)


def info(name: str, config: Config, files: Files) -> ModelInfo:
    if not files.allow_code:
        raise Refused(f"model function {name!r} is your own code: allow it with --allow-code")
    return ModelInfo(preprocessing=Preprocessing(), classes=0)


def build(name: str, config: Config, files: Files) -> nn.Module:
    arguments = config.arguments or {}
    function = own_code.load(files.code, name, files.allow_code, arguments)
    module = own_code.called(f"model function {name}", function, **arguments)
    if not isinstance(module, nn.Module):
        raise InvalidInput(f"model function {name!r} returns a {type(module).__name__}, not a torch.nn.Module")
    return module


def pretrained(name: str, config: Config, files: Files, context: Context) -> nn.Module:
    """The module that the function returns; the function itself must load any weights."""
    return build(name, config, files)
