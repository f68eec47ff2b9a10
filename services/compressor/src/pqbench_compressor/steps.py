"""The kinds of steps of a recipe: how each is configured, what it needs, what it does."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from pqbench.compressor.v1 import compressor_pb2 as pb
from pqbench_compressor import finetune, recalibrate
from pqbench_compressor.plugins import PRUNERS, QUANTIZERS, Context, Needs
from pqbench_wire.catalog import parse_config
from pqbench_wire.errors import Failed, InvalidInput

KINDS = ("prune", "recalibrate", "finetune", "quantize")
ORDER = "quantize must be the last step: what follows would undo it"
NEVER_ON_FILES = "an ONNX file can be quantized, not pruned or trained"


def configure(step: pb.Step) -> Any:
    """A step's configuration. Raises InvalidInput that names the field."""
    if step.kind == "prune":
        return PRUNERS.configure(step.plugin, step.config_json)
    if step.kind == "quantize":
        return QUANTIZERS.configure(step.plugin, step.config_json)
    if step.kind == "recalibrate":
        return parse_config(recalibrate.Config, step.config_json, "recalibrate")
    if step.kind == "finetune":
        return parse_config(finetune.Config, step.config_json, "finetune")
    raise InvalidInput(f"unknown kind of step {step.kind!r}; known: {', '.join(KINDS)}")


def needs(step: pb.Step, config: Any) -> Needs:
    """What a step must be given besides the model."""
    if step.kind == "prune":
        return PRUNERS.load(step.plugin).needs(config)
    if step.kind == "quantize":
        return QUANTIZERS.load(step.plugin).needs(config)
    return (recalibrate if step.kind == "recalibrate" else finetune).needs(config)


def refusal(step: pb.Step, module: nn.Module, classes: int, example: np.ndarray) -> str:
    """Why a step cannot work on this architecture; empty where it can."""
    if step.kind == "prune":
        return PRUNERS.load(step.plugin).refusal(module, configure(step), classes, example)
    return recalibrate.refusal(module) if step.kind == "recalibrate" else ""


def apply(step: pb.Step, module: nn.Module, context: Context) -> dict[str, Any]:
    """Change `module` in place by a step that does not quantize; returns what is worth reporting."""
    config = configure(step)
    context.report(step.kind, 0, step.plugin)
    if step.kind == "prune":
        notes = PRUNERS.load(step.plugin).prune(module, config, context)
    elif step.kind == "recalibrate":
        notes = recalibrate.recalibrate(module, config, context)
    else:
        notes = finetune.finetune(module, config, context)
    if any(not bool(torch.isfinite(p).all()) for p in module.parameters()):
        raise Failed(f"{step.kind} left weights that are not finite; a lower learning rate may help")
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in notes.items()}


def quantizer(steps: Any) -> Any:
    """The plug-in of a recipe's last step if it quantizes, else None."""
    return QUANTIZERS.load(steps[-1].plugin) if steps and steps[-1].kind == "quantize" else None


def order_refusal(steps: Any, is_file: bool) -> str:
    """Why steps cannot follow each other like this."""
    kinds = [step.kind for step in steps]
    if "quantize" in kinds[:-1]:
        return ORDER
    return NEVER_ON_FILES if is_file and set(kinds) - {"quantize"} else ""
