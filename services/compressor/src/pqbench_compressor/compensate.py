"""The `compensate` step: refits a pruned model's weights to the unpruned one's values, without labels or training.

In the order of execution, the weights and bias of each convolution and product become the ridge regression of what the
layer gives in the unpruned model on what it receives in the pruned model, as refitted so far. Where its output is added
to a shortcut, it is fitted to the sum, so that it also corrects the shortcut's error. Zeros stay zero.

Sources: least squares after channel pruning, ThiNet (arXiv 1707.06342) and He et al. (arXiv 1707.06168); over whole
networks, GRAIL (PMLR 328) and CORP (arXiv 2602.05243). The implementation is pqbench's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import fx, nn
from torch.nn import functional

from pqbench_compressor import masks
from pqbench_compressor.lockstep import Lockstep
from pqbench_compressor.plugins import Context, Needs
from pqbench_compressor.program import CONVOLUTION, PRODUCT, PerBatch, norm_after
from pqbench_compressor.regression import LARGEST, Regression
from pqbench_compressor.sampling import grid
from pqbench_compressor.tensors import batches, plain_attention
from pqbench_wire.errors import Refused
from pqbench_wire.shared.inputs import Feed

aten = torch.ops.aten
SUMS = (aten.add.Tensor,)
SKIPPED = (aten.dropout.default, aten.contiguous.default)  # change no value of a model that does not train
LARGEST_ROWWISE = 2048  # inputs of a masked layer: each output has a system of its own
FLAT = 1e-3  # of a batch norm's largest scale: channels below it say nothing of what they should be


@dataclass(frozen=True, kw_only=True)
class Config:
    """The images that the regression sees, and how much it trusts them."""

    images: Annotated[int, Field(ge=2, description="training images, chosen and shuffled by the seed")] = 512
    batch_size: Annotated[int, Field(ge=1, description="images")] = 64
    ridge: Annotated[
        float | None,
        Field(gt=0, description="pull towards the pruned weights, as a share of the inputs' mean variance; "
              "none: of each layer, the one that serves a quarter of the images best"),
    ] = None  # fmt: skip


def needs(config: Config) -> Needs:
    return Needs(training=True, baseline=True)


def refusal(module: nn.Module, config: Config, classes: int, example: Feed) -> str:
    """Why there is nothing to refit; empty if there is."""
    fits = any(isinstance(layer, nn.Conv2d | nn.Linear) for layer in module.modules())
    return "" if fits else "this model has no convolution or product to refit"


def compensate(module: nn.Module, config: Config, context: Context) -> Mapping[str, Any]:
    """Refit the weights of `module` in place. Raises Refused where a narrowed one was trained since it was pruned."""
    inputs = context.training.sample(config.images, context.seed)
    size = min(config.batch_size, len(inputs))
    whole = [part for part in batches(inputs, size) if len(part[0]) == size]
    unpruned = context.baseline.eval()
    with torch.no_grad(), plain_attention():
        pair = Lockstep(module.eval(), unpruned, whole)
        refit = _Refit(pair, module, config, context)
        pair.run(refit)
    return {"images": size * len(whole), "refitted": refit.fitted, "left_as_they_are": sorted(refit.left)}


class _Refit:
    """Refits each layer when it is reached."""

    def __init__(self, pair: Lockstep, module: nn.Module, config: Config, context: Context) -> None:
        self._pair, self._config, self._context = pair, config, context
        self._masked = set(masks.pruned(module))
        self._generator = torch.Generator().manual_seed(context.seed)
        self._layers = [node for node in pair.pruned.nodes if node.target in (CONVOLUTION, PRODUCT)]
        self.fitted, self.left = 0, set[str]()

    def __call__(self, node: fx.Node) -> None:
        if node.target not in (CONVOLUTION, PRODUCT):
            return
        weight, original = self._weight(node), self._pair.original(node, 1)
        if weight is None or original is None:
            return
        kept = kept_rows(weight, original)
        if kept is None:
            raise Refused(f"compensate: {self._name(node)} was trained since it was pruned: put compensate before that")
        self._fit(node, weight, kept)
        self._context.report("compensate", self._layers.index(node) / len(self._layers), self._name(node))

    def _weight(self, node: fx.Node) -> torch.Tensor | None:
        """The layer's own weight; None, and noted, for one that cannot be refitted alone."""
        given = node.args[1]
        tensor = self._pair.pruned.tensors.get(given) if isinstance(given, fx.Node) else None
        if tensor is None or not isinstance(given, fx.Node) or len(given.users) > 1 or not _is_plain(node, tensor):
            self.left.add(self._name(node))
            return None
        return tensor

    def _name(self, node: fx.Node) -> str:
        given = node.args[1]
        return self._pair.pruned.names.get(given, node.name) if isinstance(given, fx.Node) else node.name

    def _fit(self, node: fx.Node, weight: torch.Tensor, kept: torch.Tensor) -> None:
        mask = (weight != 0).flatten(1) if self._name(node) in self._masked else None
        if weight[0].numel() > (LARGEST if mask is None else LARGEST_ROWWISE):
            self.left.add(self._name(node))
            return
        goal = self._goal(node, kept)
        bias = self._tensor(node, 2)
        shift = bias if bias is not None else self._tensor(goal.norm, 3)
        regression = self._regression(node, weight, bias, goal, shift is not None)
        ridge = self._config.ridge or regression.best_ridge()
        grouped = None if mask is None else mask.reshape(_groups(node), -1, mask.shape[1])
        change = regression.solve(ridge, grouped)
        weight.add_(change.weights.reshape(weight.shape).to(weight.dtype))
        offset = change.offset.flatten().to(weight.dtype)
        if bias is not None:
            bias.add_(offset)
        elif shift is not None:  # the mean that the normalisation subtracts
            shift.sub_(offset)
        self.fitted += 1

    def _regression(
        self, node: fx.Node, weight: torch.Tensor, bias: torch.Tensor | None, goal: _Goal, has_offset: bool
    ) -> Regression:
        """The regression of what a layer's outputs lack, with all batches."""
        groups, columns = _groups(node), weight[0].numel()
        regression = Regression(groups, columns, len(weight) // groups, has_offset)
        given = self._pair.pruned.value(node.all_input_nodes[0])
        for index, part in enumerate(given):
            inputs, wanted = self._sampled(node, weight, part, goal.of(index), sum(len(one) for one in given))
            inputs = inputs.reshape(groups, columns, -1)
            outputs = torch.bmm(weight.reshape(groups, -1, columns), inputs)
            if bias is not None:
                outputs += bias.reshape(groups, -1, 1)
            regression.add(inputs, wanted.reshape(outputs.shape) - outputs, len(part))
        return regression

    def _sampled(
        self, node: fx.Node, weight: torch.Tensor, inputs: torch.Tensor, wanted: torch.Tensor, images: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What a layer's outputs see, and what they should be, [channels, images and positions]; of some positions."""
        if node.target == PRODUCT:
            return inputs.movedim(-1, 0), wanted.flatten(1)
        stride, padding, dilation = (_pair(_argument(node, index, one)) for index, one in ((3, 1), (4, 0), (5, 1)))
        chosen = grid(wanted.shape, images, weight[0].numel(), self._generator)
        padded = functional.pad(inputs, (padding[1], padding[1], padding[0], padding[0]))
        columns = chosen.columns(padded, tuple(weight.shape[2:]), stride, dilation)
        return columns, chosen.of(wanted).flatten(1)

    def _tensor(self, node: fx.Node | None, argument: int) -> torch.Tensor | None:
        given = node.args[argument] if node is not None and argument < len(node.args) else None
        return self._pair.pruned.tensors.get(given) if isinstance(given, fx.Node) else None

    def _goal(self, node: fx.Node, kept: torch.Tensor) -> _Goal:
        """What the layer should give: the unpruned model's value or, before a sum, what makes the sum right."""
        norm, axis = norm_after(node), 1 if node.target == CONVOLUTION else -1
        gain = offset = None
        if norm is not None:
            scale, offset, mean, variance = (self._tensor(norm, index) for index in (1, 2, 3, 4))
            assert mean is not None and variance is not None
            gain = (torch.ones_like(mean) if scale is None else scale) / (
                variance + float(_argument(norm, 6, 1e-5))
            ).sqrt()
            offset = (0 if offset is None else offset) - gain * mean
        last = _last_of(node if norm is None else _value_of(norm))
        total, shortcut = self._sum_after(node, last, axis, len(kept))
        end = total or last
        return _Goal(
            plain=self._pair.wanted(node),
            wanted=self._pair.wanted(end),
            shortcut=shortcut,
            kept=kept,
            axis=axis,
            norm=norm,
            gain=gain,
            offset=offset,
        )

    def _sum_after(self, node: fx.Node, last: fx.Node, axis: int, width: int) -> tuple[fx.Node | None, PerBatch | None]:
        """The sum that alone reads a layer's output, and the pruned model's value of its other part."""
        total = next((user for user in last.users if user.target in SUMS and len(last.users) == 1), None)
        other = None if total is None else next((one for one in total.args if one is not last), None)
        if not isinstance(other, fx.Node) or _reaches(node, other):
            return None, None
        self._pair.reach(other, self)
        value = self._pair.pruned.value(other)
        if not isinstance(value, PerBatch) or value[0].shape[axis] != width:
            return None, None
        return total, value


@dataclass(frozen=True, kw_only=True)
class _Goal:
    """What a layer should give, so that what comes of it equals the unpruned model's value."""

    plain: PerBatch  # the unpruned model's output of the layer
    wanted: PerBatch  # its value after batch norm and sum
    shortcut: PerBatch | None  # the pruned model's other part of the sum
    kept: torch.Tensor  # the outputs that the pruned layer has
    axis: int  # of the channels
    norm: fx.Node | None
    gain: torch.Tensor | None  # of the batch norm, as gain * x + offset
    offset: torch.Tensor | None

    def of(self, index: int) -> torch.Tensor:
        """For a batch, the outputs [channels, examples, …]."""
        wanted = self._channels_first(self.wanted[index].index_select(self.axis, self.kept))
        other = torch.zeros(()) if self.shortcut is None else self._channels_first(self.shortcut[index])
        if self.gain is None or self.offset is None:
            return wanted - other
        shape = (-1, *[1] * (wanted.ndim - 1))
        usable = (self.gain.abs() > FLAT * self.gain.abs().max()).reshape(shape)
        gain, offset = torch.where(usable, self.gain.reshape(shape), 1.0), self.offset.reshape(shape)
        plain = self._channels_first(self.plain[index].index_select(self.axis, self.kept))
        return torch.where(usable, (wanted - other - offset) / gain, plain)

    def _channels_first(self, value: torch.Tensor) -> torch.Tensor:
        return value.movedim(self.axis, 0)


def kept_rows(weight: torch.Tensor, original: torch.Tensor) -> torch.Tensor | None:
    """Which outputs of the original weight a pruned one has, in order; None where it is no part of the original.

    A pruned weight [o, i, …] holds entries of the original [O, I, …] unchanged: a row belongs to the first one that
    holds all its kernels.
    """
    if len(weight) == len(original):
        return torch.arange(len(weight))
    ours, theirs = (tensor.flatten(2) if tensor.ndim > 2 else tensor[:, :, None] for tensor in (weight, original))
    found: list[int] = []
    for index, row in enumerate(theirs):
        if len(found) == len(ours):
            break
        known = {kernel.numpy().tobytes() for kernel in row}
        if all(kernel.numpy().tobytes() in known for kernel in ours[len(found)]):
            found.append(index)
    return torch.tensor(found) if len(found) == len(ours) else None


def _is_plain(node: fx.Node, weight: torch.Tensor) -> bool:
    """Whether a layer's groups are one or, as in depthwise convolutions, one for each input."""
    return node.target == PRODUCT or _argument(node, 6, 1) == 1 or weight.shape[1] == 1


def _pair(value: Any) -> tuple[int, int]:
    """One number, or a list of one or two, for rows and columns."""
    values = [value] if isinstance(value, int) else list(value)
    return values[0], values[-1]


def _groups(node: fx.Node) -> int:
    return int(_argument(node, 6, 1)) if node.target == CONVOLUTION else 1


def _argument(node: fx.Node, index: int, default: Any) -> Any:
    return node.args[index] if index < len(node.args) else default


def _value_of(norm: fx.Node) -> fx.Node:
    """The first of a batch norm's results."""
    return next(user for user in norm.users if user.args[1] == 0)


def _last_of(node: fx.Node) -> fx.Node:
    """The last of the calls after a node that change no value and have one reader."""
    while len(node.users) == 1 and (user := next(iter(node.users))).target in SKIPPED:
        node = user
    return node


def _reaches(start: fx.Node, end: fx.Node) -> bool:
    """Whether the value of `end` depends on that of `start`."""
    waiting, seen = [end], set[fx.Node]()
    while waiting:
        node = waiting.pop()
        if node is start:
            return True
        if node not in seen:
            seen.add(node)
            waiting += node.all_input_nodes
    return False
