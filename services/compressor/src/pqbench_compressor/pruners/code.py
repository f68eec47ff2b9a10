"""A user's own pruner: `method: path/to/file.py:Class`, whose `prune(module, context)` changes the module in place.

Other keys of the step are the class's arguments. `context` is `pqbench_compressor.plugins.Context`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from pqbench_compressor.plugins import Context, Needs
from pqbench_compressor.pruners import _own
from pqbench_wire.errors import InvalidInput
from pqbench_wire.shared import own_code
from pqbench_wire.shared.inputs import Feed

REQUIRES = ("torch",)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which class to run, and its arguments."""

    name: Annotated[str, Field(description="of the class in the file")] = ""
    arguments: Annotated[dict[str, Any], Field(description="keyword arguments of the class")] = field(
        default_factory=dict
    )
    loaded: Annotated[Any, Field(description="filled in by the service", exclude=True)] = None


def needs(config: Config) -> Needs:
    """Training images, if the class has the attribute NEEDS_TRAINING = True."""
    return Needs(training=bool(getattr(config.loaded, "NEEDS_TRAINING", False)))


def refusal(module: nn.Module, config: Config, classes: int, example: Feed) -> str:
    return ""


def problem(exported: bytes, module: nn.Module, config: Config) -> str:
    return ""


def prune(module: nn.Module, config: Config, context: Context) -> Mapping[str, Any]:
    pruner = own_code.called(config.name, config.loaded, **config.arguments)
    if not callable(getattr(pruner, "prune", None)):
        raise InvalidInput(f"{config.name} has no method prune(module, context)")
    return _own.run(config.name, pruner, module, context)
