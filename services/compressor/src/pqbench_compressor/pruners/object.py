"""A pruner object of the calling Python process with `prune(module, context)`, as given to `benchmark(recipe=[…])`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from pqbench_compressor.plugins import Context, Needs
from pqbench_compressor.pruners import _own
from pqbench_compressor.pruners._zero_fill import problem as problem
from pqbench_compressor.pruners._zero_fill import refusal as refusal
from pqbench_wire.shared import own_code

REQUIRES = ("torch",)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which object to call."""

    name: Annotated[str, Field(min_length=1, description="name of the object, set by benchmark()")]


def needs(config: Config) -> Needs:
    """Training images, if the object has the attribute NEEDS_TRAINING = True."""
    return Needs(training=bool(getattr(own_code.live(config.name), "NEEDS_TRAINING", False)))


def prune(module: nn.Module, config: Config, context: Context) -> Mapping[str, Any]:
    pruner = own_code.live(config.name)
    return _own.run(type(pruner).__name__, pruner, module, context)
