"""Zero randomly chosen weights of each layer (a baseline of Blalock et al., arXiv 2003.03033; torch.nn.utils.prune)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

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
    """How much to prune."""

    amount: Annotated[float, Field(ge=0, lt=1, description="share of each layer's weights to zero")]


def prune(module: nn.Module, config: Config, context: Context) -> Mapping[str, Any]:
    return each(module, torch_prune.RandomUnstructured(config.amount))
