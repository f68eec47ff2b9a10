"""The `recalibrate` step: measures batch-norm statistics again, which recovers most of the accuracy lost by removal.

Source: Li et al., EagleEye, arXiv 2007.02491 (adaptive batch normalisation).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from pqbench_compressor.plugins import Context, Needs
from pqbench_compressor.tensors import batches
from pqbench_wire.shared.inputs import Feed


@dataclass(frozen=True, kw_only=True)
class Config:
    """The images on which the statistics are measured."""

    images: Annotated[int, Field(ge=2, description="training images, chosen and shuffled by the seed")] = 512
    batch_size: Annotated[int, Field(ge=2, description="images")] = 64


def needs(config: Config) -> Needs:
    return Needs(training=True)


def refusal(module: nn.Module, config: Config, classes: int, example: Feed) -> str:
    """Why there is nothing to recalibrate; empty if there is."""
    return "" if _norms(module) else "this model has no batch normalisation to recalibrate"


def recalibrate(module: nn.Module, config: Config, context: Context) -> Mapping[str, Any]:
    """Replace running means and variances by their plain averages over batches of training images, in place."""
    norms = _norms(module)
    before = [norm.momentum for norm in norms]
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
        norm.train()
    inputs = context.training.sample(config.images, context.seed)
    whole = [part for part in batches(inputs, config.batch_size) if len(part[0]) > 1]
    with torch.no_grad():
        for index, part in enumerate(whole):
            module(*part)
            context.report("recalibrate", (index + 1) / len(whole), f"{len(inputs)} images")
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    module.eval()
    return {"images": len(inputs)}


def _norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return [m for m in module.modules() if isinstance(m, kinds) and m.track_running_stats]  # type: ignore[misc]
