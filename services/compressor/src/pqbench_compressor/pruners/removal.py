"""Remove the least important channels from the network (Torch-Pruning; DepGraph, Fang et al., arXiv 2301.12900).

The scope `local` ranks channels inside each layer, `global` in the whole network, `isomorphic` among
layers of the same kind (Fang et al., arXiv 2407.04616). The target is a share of the channels, of the
multiply-accumulates (MACs), of the parameters, or of a latency whose layers were measured, as in HALP (Shen et al.,
arXiv 2110.10811). The criteria are explained in `_importance`.
"""

from __future__ import annotations

import copy
import ctypes
import dataclasses
import math
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
from weakref import WeakKeyDictionary

import torch
import torch_pruning
from pydantic import Field
from torch import nn
from torch.utils._pytree import tree_map

from pqbench_compressor.layers import Layer
from pqbench_compressor.plugins import Context, Needs
from pqbench_compressor.pruners import _architecture
from pqbench_compressor.pruners._costs import Costs, Latencies, check_latencies
from pqbench_compressor.pruners._importance import CRITERIA, FROM_IMAGES, FROM_LABELS, ReconstructionImportance, gather
from pqbench_compressor.tensors import tensors
from pqbench_wire.errors import Failed, PqbenchError, Refused, first_line
from pqbench_wire.shared.inputs import Feed, Inputs

REQUIRES = ("torch", "torch_pruning", "torchvision")
FINE_STEPS = 49  # steps of 2 % of the channels each, towards a share of MACs or parameters
WINDOWED = ("SwinTransformer", "SwinTransformerV2", "MaxVit")  # Torch-Pruning's tracing exhausts memory
MOST = 0.98  # the largest share of a layer's channels that may be removed
CLOSE_ENOUGH = 0.01  # of the unpruned cost: removal stops this close to the target
JUST_WITHIN = 0.0195  # of the unpruned cost: how far later tries may overshoot, just below TOLERANCE
TOLERANCE = 0.02  # of the unpruned cost: beyond it the target counts as missed
MOST_SECONDS = 180  # for tracing a model, and for each pass over it
CORRECTIONS = 4  # passes towards a target; between them, counting the model corrects the goal
FEW_LAYERS = 24  # up to so many, a single layer may be the reason that a target is missed
# Module -> configuration -> result of a trial: it takes seconds, and several recipes may prune the same model.
_TRIED: WeakKeyDictionary[nn.Module, dict[str, str]] = WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True)
class Config:
    """How much to remove, and how channels are ranked."""

    amount: Annotated[float, Field(ge=0, lt=1, description="share of the target to remove")]
    target: Annotated[
        Literal["channels", "macs", "parameters", "latency"],
        Field(description="what amount is a share of: each layer's channels, or the model's MACs, parameters or time"),
    ] = "channels"
    latencies: Latencies = field(default_factory=dict)
    criterion: Annotated[
        Literal["random", "l1", "l2", "taylor", "sensitivity", "hessian", "bn-scale", "lamp", "fpgm", "reconstruction"],
        Field(description="how the importance of a channel is computed"),
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
    images: Annotated[int, Field(ge=1, description="training images for criteria that need them")] = 128

    def __post_init__(self) -> None:
        if self.heads == "whole" and (self.target != "channels" or self.iterations > 1):
            raise ValueError("heads: whole needs target: channels and iterations: 1")
        check_latencies(self.target, self.latencies)


class _Pruner(torch_pruning.pruner.BasePruner):
    """Torch-Pruning's pruner, except that it rounds channel counts to the nearest multiple, not always down.

    For channels in groups, the total over all groups is rounded.
    """

    def _is_atten_group(self, group: Any) -> Any:
        self._under_way = group  # the group to be pruned, and so to be rounded
        return super()._is_atten_group(group)

    def _round_to(self, n_pruned: int, current_channels: int, round_to: int) -> int:
        groups = self._get_channel_groups(self._under_way)  # of a normalisation or convolution, or attention heads
        size, step = current_channels // groups, math.lcm(round_to, groups) // groups
        left = max(step, step * round((size - n_pruned) / step))
        return max(0, size - left)


def needs(config: Config) -> Needs:
    return Needs(training=config.criterion in FROM_IMAGES, labels=config.criterion in FROM_LABELS)


def refusal(module: nn.Module, config: Config, classes: int, example: Feed) -> str:
    """Why removal cannot work on this architecture, found by trying it on a copy; empty if it can."""
    if isinstance(example, Inputs):
        return f"removal needs a model with one image input; this one takes {', '.join(example.arrays)}"
    if windowed := [type(m).__name__ for m in module.modules() if type(m).__name__ in WINDOWED]:
        return f"removal cannot prune windowed attention ({windowed[0]})"
    if config.criterion == "bn-scale" and not _norms(module):
        return "criterion bn-scale ranks by batch normalisation, of which this model has none"
    # The criterion changes which channels are removed, but not which sizes can be reached.
    trial = dataclasses.replace(config, criterion="l2", iterations=1, images=1)
    known = _TRIED.setdefault(module, {})
    if repr(trial) not in known:
        known[repr(trial)] = _tried(module, trial, tensors(example)[0])
    return known[repr(trial)]


def problem(exported: bytes, module: nn.Module, config: Config) -> str:
    """Always empty: an export cannot lose what has been removed."""
    return ""


def prune(module: nn.Module, config: Config, context: Context) -> Mapping[str, Any]:
    """Remove channels in place; the model's outputs and its `layers_to_keep()`, if defined, keep their widths.

    Returns the share of MACs that is left, as a note. Raises Refused if the target cannot be reached.
    """
    example = tensors(context.example[:1])[0]
    if config.criterion == "bn-scale" and not _distinct_scales(module):
        raise Refused("criterion bn-scale: all scales of this model's batch normalisation are equal")
    left = _first_that_works(
        module, config, lambda copied, choice, beyond: _removed(copied, choice, beyond, example, context)
    )
    return {"macs_left": left}


def _first_that_works(module: nn.Module, config: Config, remove: Callable[[nn.Module, Config, float], float]) -> float:
    """Prune copies until one try succeeds, and make `module` equal to that copy; returns the share of MACs left.

    If a target is missed because channels come in large steps, later tries leave one layer as it is. Raises the first
    refusal if no try succeeds.
    """
    missed: Refused | None = None
    for choice, beyond in _choices(module, config):
        copied = copy.deepcopy(module)
        try:
            left = remove(copied, choice, beyond)
        except Refused as error:
            missed = missed or error
            continue
        module.__dict__ = copied.__dict__
        return left
    assert missed is not None
    raise missed


def _choices(module: nn.Module, config: Config) -> Iterator[tuple[Config, float]]:
    """The configurations to try, each with the share of the unpruned cost by which it may overshoot the target."""
    yield config, CLOSE_ENOUGH
    if config.target == "channels":
        return
    yield config, JUST_WITHIN
    names = [name for name, layer in module.named_modules() if isinstance(layer, Layer)]
    for name in names if len(names) <= FEW_LAYERS else ():
        yield dataclasses.replace(config, keep=(*config.keep, name)), JUST_WITHIN


def _removed(
    module: nn.Module, config: Config, beyond: float, example: torch.Tensor, context: Context | None = None
) -> float:
    """Remove channels in place; returns the share of MACs that is left. Without a context, no gradients are computed.

    Raises Refused, with the share that can be reached, if the target is missed; Refused if nothing is removed; Failed
    if Torch-Pruning cannot prune this architecture.
    """
    macs, shape = Costs(module, example, "macs"), _output_shape(module, example)
    before = macs.whole
    with _trainable(module):
        costs = macs
        if config.target == "parameters" or config.target == "latency":
            costs = Costs(module, example, config.target, config.latencies)
        removal = _Removal(module, config, example, beyond, costs)
        for iteration in range(1, config.iterations + 1):
            if context is not None:
                gather(config.criterion, module, context, config.images)
            removal.proceed(iteration / config.iterations)
            if context is not None:
                context.report("prune", iteration / config.iterations, f"{macs.now() / before:.0%} of the MACs left")
    module.zero_grad(set_to_none=True)
    removal.check()
    if _output_shape(module, example) != shape:
        raise Failed("removal would change the shape of the outputs; list the output layers under keep")
    left = macs.counted()
    if config.amount > 0 and left == before:
        raise Refused(
            f"removal of {config.amount:g} with round_to {config.round_to} removes no channel of this model: "
            "raise amount or lower round_to"
        )
    return left / before


@contextmanager
def _trainable(module: nn.Module) -> Iterator[None]:
    """Make all parameters require gradients: Torch-Pruning follows the autograd graph, and criteria read gradients."""
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    module.requires_grad_(True)
    try:
        yield
    finally:
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name not in frozen)


class _Removal:
    """One run of removal: Torch-Pruning ranks the channels, this class stops at the target."""

    def __init__(self, module: nn.Module, config: Config, example: torch.Tensor, beyond: float, costs: Costs) -> None:
        self._module, self._config, self._beyond, self._costs = module, config, beyond, costs
        by_channels = config.target == "channels"
        self._before, self._counted = costs.now(), costs.whole
        self._shared = _architecture.shared(module)
        ratio, whole = config.amount if by_channels else MOST, config.heads == "whole"
        heads, importance = _architecture.heads(module), CRITERIA[config.criterion]()
        if isinstance(importance, ReconstructionImportance) and config.scope != "local" and not by_channels:
            importance.saved = lambda group: costs.now() - costs.after(group)
        with _explained(), warnings.catch_warnings(action="ignore"):
            self._pruner = _Pruner(
                module,
                example,
                importance=importance,
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
                # Every attention keeps a head: Torch-Pruning rounds up, so at most (heads - 1.5) are to be removed.
                head_pruning_ratio=min(ratio, *(1 - 1.5 / count for count in heads.values()), 1.0) if whole else 0.0,
                forward_fn=_architecture.forward_for_tracing,
            )

    def proceed(self, share: float) -> None:
        """Remove channels up to `share` (0 to 1) of the requested amount."""
        with _explained():
            if self._config.target == "channels":
                for group in self._pruner.step(interactive=True):
                    if not self._parts(group):
                        group.prune()
            else:
                self._reach(1 - self._config.amount * share)
        _architecture.mend(self._module, self._pruner.num_heads)

    def check(self) -> None:
        """Raise Refused, with the share that can be reached, if a target of MACs or parameters was missed."""
        left = self._costs.counted() / self._counted
        if self._config.target != "channels" and abs(left - (1 - self._config.amount)) > TOLERANCE:
            raise Refused(_missed(self._config, left))

    def _reach(self, wanted: float) -> None:
        """Remove until the share `wanted` of the cost is left; counting the model corrects the computed cost."""
        goal = self._before * wanted
        for _ in range(CORRECTIONS):
            self._remove_to(goal)
            _architecture.mend(self._module, self._pruner.num_heads)
            left = self._costs.counted() / self._counted
            if left <= wanted + CLOSE_ENOUGH or self._pruner.current_step >= FINE_STEPS:
                return
            goal = self._costs.now() - (left - wanted) * self._before

    def _remove_to(self, goal: float) -> None:
        """Remove groups of few channels until the computed cost is near `goal`, skipping those that would overshoot."""
        close = CLOSE_ENOUGH * self._before
        while self._costs.now() > goal + close and self._pruner.current_step < FINE_STEPS:
            for group in self._pruner.step(interactive=True):
                if self._parts(group) or self._costs.after(group) < goal - self._beyond * self._before:
                    continue
                group.prune()
                if self._costs.now() <= goal + close:
                    return

    def _parts(self, group: Any) -> bool:
        """Whether removing a group would separate layers that share a parameter."""
        return any(dep.target.module in self._shared for dep, _ in group)


def _tried(module: nn.Module, config: Config, example: torch.Tensor) -> str:
    """Why pruning a copy with this configuration fails; empty if it succeeds."""
    try:
        _first_that_works(
            copy.deepcopy(module).eval(),
            config,
            lambda copied, choice, beyond: _removed(copied, choice, beyond, example),
        )
    except (Failed, Refused) as error:
        return str(error)
    return ""


class _TooLong(BaseException):
    """Torch-Pruning exceeded the time limit; not an Exception, so that its own handlers do not catch it."""


@contextmanager
def _bounded() -> Iterator[None]:
    """Raise Failed if the code inside runs for over MOST_SECONDS, by an exception injected into its thread.

    On some graphs Torch-Pruning's tracing would run far longer.
    """
    thread, over = threading.get_ident(), threading.Event()

    def interrupt() -> None:
        if not over.wait(MOST_SECONDS):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(_TooLong))

    watcher = threading.Thread(target=interrupt, daemon=True)
    watcher.start()
    try:
        yield
    except _TooLong:
        raise Failed(f"Torch-Pruning cannot follow this architecture within {MOST_SECONDS / 60:.0f} minutes") from None
    finally:
        over.set()


@contextmanager
def _explained() -> Iterator[None]:
    """Turn errors of Torch-Pruning into Failed, and bound its time.

    It raises whatever its tracing runs into: ZeroDivisionError, IndexError, RuntimeError.
    """
    try:
        with _bounded():
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


def _missed(config: Config, left: float) -> str:
    had = f"{1 - left:.0%} is possible with round_to {config.round_to}"
    if left > 1 - config.amount:
        return f"{config.amount:.0%} of this model's {config.target} cannot be removed; {had}"
    return f"removing {config.amount:.0%} of this model's {config.target} would remove more; {had}"


def _norms(module: nn.Module) -> list[torch.Tensor]:
    return [m.weight for m in module.modules() if isinstance(m, nn.BatchNorm2d) and m.affine]


def _distinct_scales(module: nn.Module) -> bool:
    return any(bool((scale != scale[0]).any()) for scale in _norms(module))
