"""Remove the least important channels for real (Torch-Pruning, DepGraph, arXiv 2301.12900)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import torch
import torch_pruning
from pydantic import Field
from torch import nn

from pqbench_compressor.plugins import Context
from pqbench_wire.errors import Failed, Refused
from pqbench_wire.jobs import first_line

REQUIRES = ("torch", "torch_pruning")


@dataclass(frozen=True, kw_only=True)
class Config:
    """How much to remove, judged how."""

    amount: Annotated[float, Field(ge=0, lt=1, description="share of the channels of each layer to remove")]
    norm: Annotated[Literal[1, 2], Field(description="order of the magnitude's norm")] = 2
    scope: Annotated[Literal["local", "global"], Field(description="rank in each layer, or in the whole network")] = (
        "local"
    )
    round_to: Annotated[int, Field(ge=1, description="channel counts stay multiples of this")] = 8


def prune(module: nn.Module, config: Config, context: Context) -> Mapping[str, Any]:
    """Remove channels in place, the classifier's outputs kept, as are a model's `layers_to_keep()`."""
    example = torch.from_numpy(context.example)
    before = torch_pruning.utils.count_ops_and_params(module, example[:1])[0]
    kept = _kept(module, context.classes)
    try:
        torch_pruning.pruner.MetaPruner(
            module,
            example[:1],
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=config.norm),
            global_pruning=config.scope == "global",
            pruning_ratio=config.amount,
            ignored_layers=kept,
            round_to=config.round_to,
        ).step()
        with torch.no_grad():
            outputs = module.eval()(example)
    except Exception as error:
        # Torch-Pruning raises whatever its tracing met: ZeroDivisionError, IndexError, RuntimeError.
        raise Failed(
            f"Torch-Pruning cannot remove channels of this architecture ({type(error).__name__}: {first_line(error)})"
        ) from error
    if context.classes and outputs.shape[1] != context.classes:
        raise Failed(f"removal changed the classifier to {outputs.shape[1]} outputs")
    after = torch_pruning.utils.count_ops_and_params(module, example[:1])[0]
    if config.amount > 0 and after == before:
        raise Refused(f"removal of {config.amount:g} with round_to {config.round_to} removes no channel of this model")
    return {"macs_left": after / before}


def _kept(module: nn.Module, classes: int) -> list[nn.Module]:
    """The layers that keep their outputs: the classifier and those that the model names."""
    heads = [
        m
        for m in module.modules()
        if (isinstance(m, nn.Linear) and m.out_features == classes)
        or (isinstance(m, nn.Conv2d) and m.out_channels == classes)
    ]
    named = cast(Any, getattr(module, "layers_to_keep", list))()
    return [*heads, *named]
