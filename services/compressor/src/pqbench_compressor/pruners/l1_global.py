"""Zero the smallest weights of the whole network (Han et al., arXiv 1506.02626; torch.nn.utils.prune)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn
from torch.nn.utils import prune as torch_prune

from pqbench_compressor.plugins import Context
from pqbench_compressor.pruners._zero_fill import needs as needs
from pqbench_compressor.pruners._zero_fill import problem as problem
from pqbench_compressor.pruners._zero_fill import prunable, report, zero
from pqbench_compressor.pruners._zero_fill import refusal as refusal

REQUIRES = ("torch",)


@dataclass(frozen=True, kw_only=True)
class Config:
    """How much to prune."""

    amount: Annotated[float, Field(ge=0, lt=1, description="share of all weights to zero")]


def prune(module: nn.Module, config: Config, context: Context) -> Mapping[str, Any]:
    weights = prunable(module)
    values = torch.cat([getattr(layer, name).detach().flatten() for layer, name in weights])
    mask = torch_prune.L1Unstructured(config.amount).compute_mask(values, torch.ones_like(values))
    parts = mask.split([getattr(layer, name).numel() for layer, name in weights])
    for (layer, name), part in zip(weights, parts, strict=True):
        zero(module, layer, name, part.view_as(getattr(layer, name)))
    return report(module, weights)
