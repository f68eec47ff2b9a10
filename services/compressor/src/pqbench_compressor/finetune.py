"""The `finetune` step: recovers accuracy after pruning, with or without distillation (see `training`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from pqbench_compressor.modules import training_refusal
from pqbench_compressor.plugins import Context, Needs
from pqbench_compressor.training import Options, frozen, train
from pqbench_wire.shared.inputs import Feed


@dataclass(frozen=True, kw_only=True)
class Config(Options):
    """How to train."""


def needs(config: Config) -> Needs:
    return Needs(training=True, labels=True, baseline=config.distill)


def refusal(module: nn.Module, config: Config, classes: int, example: Feed) -> str:
    """Why this module cannot be trained (frozen, or unsuitable in training mode); empty if it can."""
    return training_refusal(module, example)


def finetune(module: nn.Module, config: Config, context: Context) -> Mapping[str, Any]:
    """Train `module` in place on the context's training split."""
    teacher = frozen(context.baseline) if config.distill else None
    loss = train(
        module,
        context.training,
        config,
        seed=context.seed,
        report=context.report,
        teacher=teacher,
        resume=context.resume,
    )
    return {"last_epoch_loss": loss}
