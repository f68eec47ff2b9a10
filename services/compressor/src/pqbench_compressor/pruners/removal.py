"""Remove the least important channels for real (Torch-Pruning, DepGraph, arXiv 2301.12900).

Scopes: `local` ranks inside each layer, `global` in the whole network, `isomorphic` among layers of
the same kind (Fang et al., arXiv 2407.04616). Targets: a share of the channels, of the
multiply-accumulates or of the parameters. The criteria are in `_importance`.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from weakref import WeakKeyDictionary

import torch
import torch_pruning
from pydantic import Field
from torch import nn
from torch.utils._pytree import tree_map

from pqbench_compressor.plugins import Context, Needs
from pqbench_compressor.pruners import _architecture
from pqbench_compressor.pruners._importance import CRITERIA, FROM_IMAGES, gather
from pqbench_wire.errors import Failed, PqbenchError, Refused
from pqbench_wire.inputs import Feed, Inputs
from pqbench_wire.jobs import first_line

REQUIRES = ("torch", "torch_pruning", "torchvision")
FINE_STEPS = 49  # of 2 % of the channels, on the way to a share of MACs or parameters
WINDOWED = ("SwinTransformer", "SwinTransformerV2", "MaxVit")  # its tracing of them takes all memory
MOST = 0.98  # share of a layer's channels that is ever removed
CLOSE_ENOUGH = 0.01  # of the unpruned cost
TOLERANCE = 0.02  # of the unpruned cost: beyond it the target counts as missed
# What was found out of a model that several recipes want to prune: it takes seconds.
_LEAST: WeakKeyDictionary[nn.Module, dict[Any, float]] = WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True)
class Config:
    """How much to remove, judged how."""

    amount: Annotated[float, Field(ge=0, lt=1, description="share of the target to remove")]
    target: Annotated[
        Literal["channels", "macs", "parameters"],
        Field(description="of what: each layer's channels, or the model's multiply-accumulates or parameters"),
    ] = "channels"
    criterion: Annotated[
        Literal["random", "l1", "l2", "taylor", "sensitivity", "hessian", "bn-scale", "lamp", "fpgm"],
        Field(description="what a channel is worth"),
    ] = "l2"
    scope: Annotated[
        Literal["local", "global", "isomorphic"],
        Field(description="rank in each layer, in the whole network, or among layers of one kind"),
    ] = "local"
    iterations: Annotated[int, Field(ge=1, le=100, description="passes, each judging what the last one left")] = 1
    round_to: Annotated[int, Field(ge=1, description="channel counts stay multiples of this")] = 8
    heads: Annotated[
        Literal["channels", "whole"], Field(description="attention: thin out every head, or remove whole heads")
    ] = "channels"
    keep: Annotated[tuple[str, ...], Field(description="layers not to touch, by name or pattern (layer1.*)")] = ()
    images: Annotated[int, Field(ge=1, description="training images for criteria that need gradients")] = 128

    def __post_init__(self) -> None:
        if self.heads == "whole" and (self.target != "channels" or self.iterations > 1):
            raise ValueError("heads: whole goes with target: channels in one iteration")


class _Pruner(torch_pruning.pruner.BasePruner):
    """Rounds channel counts to the nearest multiple, not always down."""

    def _round_to(self, n_pruned: int, current_channels: int, round_to: int) -> int:
        left = max(round_to, round_to * round((current_channels - n_pruned) / round_to))
        return max(0, current_channels - left)


def needs(config: Config) -> Needs:
    return Needs(training=config.criterion in FROM_IMAGES, labels=config.criterion in FROM_IMAGES)


def refusal(module: nn.Module, config: Config, classes: int, example: Feed) -> str:
    """Why this cannot work on this architecture, found by removing as much as possible from a copy."""
    if isinstance(example, Inputs):
        return f"removal follows one image through a model; this one takes {', '.join(example.arrays)}"
    if windowed := [type(m).__name__ for m in module.modules() if type(m).__name__ in WINDOWED]:
        return f"Torch-Pruning cannot follow the windows of {windowed[0]}"
    if config.criterion == "bn-scale" and not _norms(module):
        return "criterion bn-scale ranks by batch normalisation, of which this model has none"
    try:
        least = _least(module, config, torch.from_numpy(example))
    except Failed as error:
        return str(error)
    if config.target != "channels" and 1 - config.amount < least - TOLERANCE:
        return _too_much(config, least)
    return ""


def problem(exported: bytes, config: Config) -> str:
    """What is removed needs no promise."""
    return ""


def prune(module: nn.Module, config: Config, context: Context) -> Mapping[str, Any]:
    """Remove channels in place; the classifier's outputs and a model's `layers_to_keep()` stay."""
    example = torch.from_numpy(context.example[:1])
    if config.criterion == "bn-scale" and not _distinct_scales(module):
        raise Refused("criterion bn-scale: all scales of this model's batch normalisation are equal")
    macs, shape = _architecture.Costs(module, example, "macs"), _output_shape(module, example)
    before = macs.now()
    removal = _Removal(module, config, example)
    for iteration in range(1, config.iterations + 1):
        gather(config.criterion, module, context, config.images)
        removal.proceed(iteration / config.iterations)
        context.report("prune", iteration / config.iterations, f"{macs.now() / before:.0%} of the MACs left")
    module.zero_grad(set_to_none=True)
    removal.check()
    if _output_shape(module, example) != shape:
        raise Failed("removal changed the shape of the outputs; name the layers that make them in keep")
    if config.amount > 0 and macs.now() == before:
        raise Refused(f"removal of {config.amount:g} with round_to {config.round_to} removes no channel of this model")
    return {"macs_left": macs.now() / before}


class _Removal:
    """One pruning under way: Torch-Pruning ranks, this stops at the target."""

    def __init__(self, module: nn.Module, config: Config, example: torch.Tensor) -> None:
        self._module, self._config = module, config
        by_channels = config.target == "channels"
        self._costs = _architecture.Costs(module, example, "macs" if by_channels else config.target)
        self._before = self._costs.now()
        ratio, whole = config.amount if by_channels else MOST, config.heads == "whole"
        heads = _architecture.heads(module)
        with _explained(), warnings.catch_warnings(action="ignore"):
            self._pruner = _Pruner(
                module,
                example,
                importance=CRITERIA[config.criterion](),
                global_pruning=config.scope != "local",
                isomorphic=config.scope == "isomorphic",
                pruning_ratio=ratio,
                max_pruning_ratio=MOST,
                iterative_steps=config.iterations if by_channels else FINE_STEPS,
                ignored_layers=_architecture.kept(module, example, config.keep),
                round_to=config.round_to,
                num_heads=heads,
                prune_num_heads=whole,
                prune_head_dims=not whole,
                # Torch-Pruning rounds up: half a head less leaves every attention its last one.
                head_pruning_ratio=min(ratio, *(1 - 1.5 / count for count in heads.values()), 1.0) if whole else 0.0,
                forward_fn=_architecture.forward_for_tracing,
            )

    def proceed(self, share: float) -> None:
        """Go on to `share` of the whole way."""
        with _explained():
            if self._config.target == "channels":
                self._pruner.step()
            else:
                self._reach(self._before * (1 - self._config.amount * share))
        _architecture.mend(self._module, self._pruner.num_heads)

    def check(self) -> None:
        """Raise Refused, with what can be had, where a target of MACs or parameters was missed."""
        left = self._costs.now() / self._before
        if self._config.target != "channels" and abs(left - (1 - self._config.amount)) > TOLERANCE:
            raise Refused(_too_much(self._config, left))

    def _reach(self, goal: float) -> None:
        """Remove group by group, in steps of few channels, passing over groups that would overshoot."""
        close = CLOSE_ENOUGH * self._before
        while self._costs.now() > goal + close and self._pruner.current_step < FINE_STEPS:
            for group in self._pruner.step(interactive=True):
                if self._costs.after(group) < goal - close:
                    continue
                group.prune()
                if self._costs.now() <= goal + close:
                    return


def _least(module: nn.Module, config: Config, example: torch.Tensor) -> float:
    """The smallest share of the target that can be left. Raises Failed with the reason."""
    known = _LEAST.setdefault(module, {})
    key = (config.target, config.round_to, config.heads, config.keep)
    if key not in known:
        known[key] = _tried(module, config, example)
    return known[key]


def _tried(module: nn.Module, config: Config, example: torch.Tensor) -> float:
    """What is left of a copy after removing as much as possible."""
    trial = dataclasses.replace(config, target="channels", amount=MOST, criterion="l2", scope="local", iterations=1)
    copied = copy.deepcopy(module).eval()
    costs = _architecture.Costs(copied, example, "parameters" if config.target == "parameters" else "macs")
    before, shape = costs.now(), _output_shape(copied, example)
    _Removal(copied, trial, example).proceed(1)
    if _output_shape(copied, example) != shape:
        raise Failed("removal would change the shape of the outputs; name the layers that make them in keep")
    if costs.now() == before:
        raise Failed("no channel of this model can be removed")
    return costs.now() / before


@contextmanager
def _explained() -> Iterator[None]:
    """Torch-Pruning raises whatever its tracing met: ZeroDivisionError, IndexError, RuntimeError."""
    try:
        yield
    except PqbenchError:
        raise
    except Exception as error:
        raise Failed(
            f"Torch-Pruning cannot remove channels of this architecture ({type(error).__name__}: {first_line(error)})"
        ) from error


def _output_shape(module: nn.Module, example: torch.Tensor) -> Any:
    with _explained(), torch.no_grad():
        return tree_map(lambda output: tuple(output.shape), module.eval()(example))


def _too_much(config: Config, left: float) -> str:
    return (
        f"removal cannot take {config.amount:.0%} of this model's {config.target}; {1 - left:.0%} can be had "
        f"with round_to {config.round_to}"
    )


def _norms(module: nn.Module) -> list[torch.Tensor]:
    return [m.weight for m in module.modules() if isinstance(m, nn.BatchNorm2d) and m.affine]


def _distinct_scales(module: nn.Module) -> bool:
    return any(bool((scale != scale[0]).any()) for scale in _norms(module))
