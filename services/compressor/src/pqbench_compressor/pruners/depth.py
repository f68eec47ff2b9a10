"""Remove whole residual blocks: depth pruning, so that every runtime saves their whole time.

A network with shortcuts is like an ensemble of shallower ones, which miss few of its blocks (Veit et al., arXiv
1605.06431). Blocks go one after another: the one whose loss changes the outputs least for what it saves, measured by
running the model without it on unlabelled images, as for language models (Kim et al., arXiv 2402.02834). A change that
was computed when fewer blocks were gone is taken as a lower bound, which spares most runs of the model.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from pqbench_compressor import blocks
from pqbench_compressor.plugins import Context, Needs
from pqbench_compressor.pruners._costs import Costs, Latencies, check_latencies
from pqbench_compressor.tensors import batches, leaves, tensors
from pqbench_wire.errors import InvalidInput, Refused
from pqbench_wire.shared.inputs import Feed, Inputs

REQUIRES = ("torch",)
BATCH = 64  # images

Batches = list[tuple[torch.Tensor, ...]]


@dataclass(frozen=True, kw_only=True)
class Config:
    """How much to remove, and how blocks are ranked."""

    amount: Annotated[float, Field(gt=0, lt=1, description="share of the target to remove, as near as blocks allow")]
    target: Annotated[
        Literal["blocks", "macs", "parameters", "latency"],
        Field(description="what amount is a share of: the residual blocks, or the model's MACs, parameters or time"),
    ] = "blocks"
    latencies: Latencies = field(default_factory=dict)
    keep: Annotated[tuple[str, ...], Field(description="blocks not to remove, by name or pattern (layer1.*)")] = ()
    images: Annotated[int, Field(ge=1, description="training images on which the outputs are compared")] = 128

    def __post_init__(self) -> None:
        check_latencies(self.target, self.latencies)


def needs(config: Config) -> Needs:
    return Needs(training=True)


def refusal(module: nn.Module, config: Config, classes: int, example: Feed) -> str:
    """Why no block, or not enough of them, can be removed; empty if they can."""
    if isinstance(example, Inputs):
        return f"depth needs a model with one image input; this one takes {', '.join(example.arrays)}"
    try:
        _Blocks(module.eval(), config, example)
    except Refused as error:
        return str(error)
    return ""


def problem(exported: bytes, module: nn.Module, config: Config) -> str:
    """Always empty: an export cannot lose what has been removed."""
    return ""


def prune(module: nn.Module, config: Config, context: Context) -> Mapping[str, Any]:
    """Remove blocks in place; returns their names and the share of MACs that is left, as notes.

    Raises Refused where the residual blocks together are less than `amount`, or none is small enough.
    """
    found = _Blocks(module.eval(), config, context.example)
    exact = Costs(module, tensors(context.example[:1])[0], "macs")
    with torch.no_grad():
        inputs = list(batches(context.training.sample(config.images, context.seed), BATCH))
        going = _Ranking(module, inputs, found).until(found.wanted, context)
    for name in going:
        blocks.remove(module, name)
    removed = [name for name in found.costs if name in going]  # in the order of execution
    return {"blocks_removed": removed, "macs_left": exact.counted() / exact.whole}


class _Blocks:
    """The blocks that may go with their costs, and how much of that is wanted. Raises Refused where that cannot be."""

    def __init__(self, module: nn.Module, config: Config, example: Feed) -> None:
        every = blocks.residual(module, tensors(example))
        if not every:
            raise Refused("depth needs residual blocks, which add something to their input; this model has none")
        for pattern in config.keep:
            if not fnmatch.filter(every, pattern):
                raise InvalidInput(f"keep: no block matches {pattern!r}; block names look like {every[0]!r}")
        costs = dict.fromkeys(every, 1.0)
        whole = float(len(every))
        if config.target != "blocks":
            counted = Costs(module, tensors(example[:1])[0], config.target, config.latencies)
            whole, costs = counted.whole, {name: counted.of(module.get_submodule(name)) for name in every}
        kept = {name for pattern in config.keep for name in fnmatch.filter(every, pattern)}
        self.costs = {name: cost for name, cost in costs.items() if cost > 0 and name not in kept}
        self.wanted = config.amount * whole
        possible, least = sum(self.costs.values()), min(self.costs.values(), default=0.0)
        if self.wanted > possible + least / 2:
            raise Refused(
                f"depth: {config.amount:.0%} of this model's {config.target} cannot be removed: "
                f"its residual blocks have {possible / whole:.0%}"
            )
        if self.wanted < least / 2:
            raise Refused(
                f"depth: amount {config.amount:g} removes no block; the smallest has {least / whole:.2%} "
                f"of this model's {config.target}"
            )


class _Ranking:
    """Finds the blocks to remove, the cheapest first: the change of the outputs for what is saved."""

    def __init__(self, module: nn.Module, inputs: Batches, found: _Blocks) -> None:
        self._module, self._inputs, self._costs = module, inputs, found.costs
        self._unpruned = self._outputs()
        self._scale = sum(float(output.square().sum()) for output in self._unpruned) or 1.0

    def until(self, wanted: float, context: Context) -> list[str]:
        """Names whose costs are together about `wanted`: none of the others would bring the sum nearer to it."""
        gone: list[str] = []
        saved, error = 0.0, 0.0
        known = dict.fromkeys(self._costs, -1.0)  # increase of the error for what is saved; -1: not known
        while known := {name: rank for name, rank in known.items() if self._costs[name] <= 2 * (wanted - saved)}:
            name, error = self._cheapest(known, gone, error)
            del known[name]
            gone, saved = [*gone, name], saved + self._costs[name]
            context.report("prune", min(1.0, saved / wanted), f"without {name} the outputs change by {error:.2%}")
        return gone

    def _cheapest(self, known: dict[str, float], gone: list[str], error: float) -> tuple[str, float]:
        """The next block to go, and the error without it and those that are gone; updates `known`.

        Only those of blocks that would be first are computed again.
        """
        fresh: dict[str, float] = {}
        while (name := min(known, key=known.__getitem__)) not in fresh:
            fresh[name] = self._error([*gone, name])
            known[name] = max(0.0, fresh[name] - error) / self._costs[name]
        return name, fresh[name]

    def _error(self, gone: list[str]) -> float:
        """The squared change of the outputs, relative to the outputs."""
        with _without(self._module, gone):
            outputs = self._outputs()
        pairs = zip(outputs, self._unpruned, strict=True)
        return sum(float((output - wanted).square().sum()) for output, wanted in pairs) / self._scale

    def _outputs(self) -> list[torch.Tensor]:
        return [leaf.float() for part in self._inputs for leaf in leaves(self._module(*part))]


@contextmanager
def _without(module: nn.Module, names: list[str]) -> Iterator[None]:
    originals = {name: module.get_submodule(name) for name in names}
    for name in names:
        blocks.remove(module, name)
    try:
        yield
    finally:
        for name, original in originals.items():
            blocks.replace(module, name, original)
