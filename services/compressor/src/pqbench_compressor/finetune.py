"""The `finetune` step: recovers accuracy after pruning, with or without a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from pqbench_compressor.plugins import Context
from pqbench_compressor.training import frozen, train
from pqbench_wire.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Config:
    """SGD with Nesterov momentum under a one-cycle schedule."""

    epochs: Annotated[int, Field(ge=1, le=1000, description="passes over the training split")] = 1
    learning_rate: Annotated[float, Field(gt=0, description="peak of the schedule")] = 0.01
    batch_size: Annotated[int, Field(ge=1, description="images")] = 64
    momentum: Annotated[float, Field(ge=0, lt=1, description="of SGD")] = 0.9
    weight_decay: Annotated[float, Field(ge=0, description="L2 penalty")] = 5e-4
    distill: Annotated[bool, Field(description="learn from the unpruned model's outputs too")] = False
    temperature: Annotated[float, Field(gt=0, description="softens both outputs when distilling")] = 4.0
    teacher_weight: Annotated[float, Field(ge=0, le=1, description="share of the teacher in the loss")] = 0.5


def finetune(module: nn.Module, config: Config, context: Context) -> Mapping[str, Any]:
    """Train `module` in place on the context's training split."""
    teacher = None
    if config.distill:
        if context.load_baseline is None:
            raise InvalidInput("finetune: distill needs the unpruned checkpoint; the request has none")
        teacher = frozen(context.load_baseline())
    loss = train(
        module,
        context.training,
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        seed=context.seed,
        report=context.report,
        batch_size=config.batch_size,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        teacher=teacher,
        temperature=config.temperature,
        teacher_weight=config.teacher_weight,
    )
    return {"last_epoch_loss": loss}
