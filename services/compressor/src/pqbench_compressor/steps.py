"""The steps of a recipe: how each is configured, what it needs, what it does."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pqbench.common.v1.common_pb2 import Form
from pqbench.compressor.v1 import compressor_pb2 as pb
from pqbench_compressor import compensate, finetune, masks, recalibrate
from pqbench_compressor.plugins import PRUNERS, QUANTIZERS, Context, Needs, Withholds
from pqbench_wire.catalog import parse_config
from pqbench_wire.errors import Failed, InvalidInput
from pqbench_wire.shared.inputs import Feed

CATALOGS = {"prune": PRUNERS, "quantize": QUANTIZERS}
SINGLE = {
    "recalibrate": recalibrate,
    "compensate": compensate,
    "finetune": finetune,
}  # kinds with one implementation, without plug-ins
OWN_CODE = "code"
COMPENSATES_PRUNING = "compensate must follow a prune step, before any finetune: it needs the weights that pruning left"
ORDER = "quantize must be the last step: what follows would undo it"
NEVER_ON_FILES = "an ONNX file can be quantized, not pruned or fine-tuned"


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step with its plug-in's module and its configuration."""

    kind: str
    name: str
    plugin: Any
    config: Any

    @property
    def label(self) -> str:
        """The step's name in notes and messages."""
        return f"{self.kind} {self.name}" if self.name else self.kind

    def needs(self) -> Needs:
        """What the step needs besides the model."""
        return self.plugin.needs(self.config)

    def refusal(self, module: nn.Module, classes: int, example: Feed) -> str:
        """Why the step cannot work on this architecture; empty if it can, and for every quantizer."""
        return "" if self.kind == "quantize" else self.plugin.refusal(module, self.config, classes, example)

    def apply(self, module: nn.Module, context: Context) -> dict[str, Any]:
        """Apply a step that is no quantization to `module`, in place; returns notes for the result.

        Raises Failed if a parameter is not finite afterwards.
        """
        context.report(self.kind, 0, self.name)
        zeros = masks.zeros(module) if self.kind == "prune" else {}
        notes = getattr(self.plugin, self.kind)(module, self.config, context)
        if self.kind == "prune":  # what it zeroed stays zero in the following steps
            masks.mark_new_zeros(module, zeros)
        if any(not bool(torch.isfinite(p).all()) for p in module.parameters()):
            raise Failed(f"{self.kind} left weights that are not finite; a lower learning rate may help")
        return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in notes.items()}


def read(step: pb.Step, own: Callable[[pb.Step, str, Mapping[str, Any]], Any]) -> Step:
    """Look up a step's plug-in and read its configuration; `own` loads a user's class.

    Raises InvalidInput, which names the field, for a wrong configuration, and Unavailable if a library is missing.
    """
    if step.kind in SINGLE:
        plugin = SINGLE[step.kind]
        return Step(
            kind=step.kind, name="", plugin=plugin, config=parse_config(plugin.Config, step.config_json, step.kind)
        )
    if step.kind not in CATALOGS:
        raise InvalidInput(f"unknown kind of step {step.kind!r}; known: {', '.join([*CATALOGS, *SINGLE])}")
    catalog = CATALOGS[step.kind]
    config = catalog.configure(step.plugin, step.config_json)
    if step.plugin == OWN_CODE:
        config = dataclasses.replace(config, loaded=own(step, config.name, config.arguments))
    return Step(kind=step.kind, name=step.plugin, plugin=catalog.load(step.plugin), config=config)


def quantizer(steps: Sequence[Step]) -> Any:
    """The plug-in of a recipe's last step if it quantizes, else None."""
    return steps[-1].plugin if steps and steps[-1].kind == "quantize" else None


def withheld(steps: Sequence[Step]) -> tuple[tuple[Form, ...], str]:
    """The forms that a recipe's quantizer does not make with its options, and why."""
    plugin = quantizer(steps)
    return plugin.withheld(steps[-1].config) if isinstance(plugin, Withholds) else ((), "")


def recovery_refusal(kinds: Sequence[str]) -> str:
    """Why a whole recipe of these kinds of steps cannot be; empty if it can."""
    before = kinds[: kinds.index("compensate")] if "compensate" in kinds else ["prune"]
    return COMPENSATES_PRUNING if "prune" not in before or "finetune" in before else ""


def order_refusal(kinds: Sequence[str], is_file: bool) -> str:
    """Why steps of these kinds, in this order, cannot be applied; empty if they can. `is_file`: to an ONNX file."""
    if "quantize" in kinds[:-1]:
        return ORDER
    return NEVER_ON_FILES if is_file and set(kinds) - {"quantize"} else ""
