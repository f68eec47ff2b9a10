"""A user's own model: `path/to/file.py:function`, where the function returns a torch module.

The file runs in the compressor's process, only where it was started with --allow-code.
"""

from __future__ import annotations

import runpy
from dataclasses import dataclass
from typing import Any

from torch import nn

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench_compressor.plugins import Context, Files, ModelInfo
from pqbench_wire.errors import Failed, InvalidInput, Refused
from pqbench_wire.jobs import first_line

REQUIRES = ("torch",)


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
    info(name, config, files)
    assert files.code is not None
    try:
        function = runpy.run_path(str(files.code)).get(name)
        module = function(**(config.arguments or {})) if callable(function) else None
    except Exception as error:
        raise Failed(f"model function {name}: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise InvalidInput(f"model function {name!r} is missing or does not return a torch.nn.Module")
    return module


def pretrained(name: str, config: Config, files: Files, context: Context) -> nn.Module:
    """What the function returns: it may load weights of its own."""
    return build(name, config, files)
