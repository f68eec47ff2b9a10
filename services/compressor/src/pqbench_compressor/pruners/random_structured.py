"""Zero randomly chosen channels of each layer (Mittal et al., arXiv 1801.10447; torch.nn.utils.prune)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import nn
from torch.nn.utils import prune as torch_prune

from pqbench_compressor.plugins import Context
from pqbench_compressor.pruners._zero_fill import each
from pqbench_compressor.pruners._zero_fill import needs as needs
from pqbench_compressor.pruners._zero_fill import problem as problem
from pqbench_compressor.pruners._zero_fill import refusal as refusal

REQUIRES = ("torch",)


@dataclass(frozen=True, kw_only=True)
class Config:
    """How much to prune, along which dimension."""

    amount: Annotated[float, Field(ge=0, lt=1, description="share of each layer's channels to zero")]
    dim: Annotated[Literal[0, 1], Field(description="0: neurons or filters; 1: their inputs")] = 0


def prune(module: nn.Module, config: Config, context: Context) -> Mapping[str, Any]:
    return each(module, torch_prune.RandomStructured(config.amount), config.dim)
