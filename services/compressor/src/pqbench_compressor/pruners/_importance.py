"""The importance criteria of `removal`, by name; each ranks the channel groups of Torch-Pruning's DepGraph.

| criterion | importance of a channel | source |
| --- | --- | --- |
| random | a random number | Mittal et al., arXiv 1801.10447 |
| l1, l2 | the norm of its weights | Li et al., arXiv 1608.08710 |
| taylor | weight x gradient of the loss | Molchanov et al., arXiv 1906.10771 |
| sensitivity | magnitude of the loss's gradient at its output, over all positions | Mittal et al., arXiv 1801.10447 |
| hessian | weight² x squared gradient (diagonal Fisher) | LeCun et al., Optimal Brain Damage, 1989 |
| bn-scale | the magnitude of its batch normalisation's scale | Liu et al., arXiv 1708.06519 |
| lamp | its squared norm, divided by the sum of those that are not smaller | Lee et al., arXiv 2010.07611 |
| fpgm | the sum of its distances to the other filters | He et al., arXiv 1811.00250 |
| reconstruction | what refitting the layers that read it cannot give back | `_reconstruction` |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch_pruning.pruner import function, importance

from pqbench_compressor.layers import Layer, Transposed
from pqbench_compressor.plugins import Context
from pqbench_compressor.pruners import _reconstruction
from pqbench_compressor.tensors import batches

BATCH = 32  # images
INPUTS = (function.prune_conv_in_channels, function.prune_linear_in_channels)
OUTPUTS = (function.prune_conv_out_channels, function.prune_linear_out_channels)
CRITERIA: dict[str, Callable[[], Any]] = {
    "random": importance.RandomImportance,
    "l1": lambda: importance.GroupMagnitudeImportance(p=1),
    "l2": lambda: importance.GroupMagnitudeImportance(p=2),
    "taylor": importance.GroupTaylorImportance,
    "sensitivity": lambda: SensitivityImportance(),
    "hessian": importance.GroupHessianImportance,
    "bn-scale": importance.BNScaleImportance,
    "lamp": importance.LAMPImportance,
    "fpgm": importance.FPGMImportance,
    "reconstruction": lambda: ReconstructionImportance(),
}
FROM_LABELS = ("taylor", "sensitivity", "hessian")
FROM_IMAGES = (*FROM_LABELS, "reconstruction")


class SensitivityImportance(importance.GroupMagnitudeImportance):
    """Ranks channels by the scores that `gather` stored in the weights' gradients, one for each output channel."""

    @torch.no_grad()
    def __call__(self, group: Any) -> torch.Tensor | None:
        """Importance [channels] of a group; None if none of its layers has scores."""
        worth, judged = torch.zeros(len(group[0][1])), False
        for i, (dep, idxs) in enumerate(group):
            layer = dep.layer
            if dep.pruning_fn in OUTPUTS and layer.weight.grad is not None:
                along = layer.weight.grad.transpose(0, 1) if isinstance(layer, Transposed) else layer.weight.grad
                worth.scatter_add_(0, torch.tensor(group[i].root_idxs), along[idxs].flatten(1)[:, 0])
                judged = True
        return self._normalize(worth, self.normalizer) if judged else None


class ReconstructionImportance(importance.GroupMagnitudeImportance):
    """Ranks channels by the costs that `gather` stored in the gradients of the layers that read them.

    Where channels of different layers compete for a target of MACs or parameters, `saved` counts what a group's
    removal saves, and the importance is the cost for what is saved.
    """

    saved: Callable[[Any], float] | None = None

    @torch.no_grad()
    def __call__(self, group: Any) -> torch.Tensor | None:
        """Importance [channels] of a group; None if no layer that reads it has costs."""
        costs, judged = torch.zeros(len(group[0][1])), False
        for i, (dep, idxs) in enumerate(group):
            gradient = dep.layer.weight.grad if dep.pruning_fn in INPUTS else None
            if gradient is not None:
                of_inputs = gradient[0].reshape(gradient.shape[1], -1)[:, 0]
                costs.scatter_add_(0, torch.tensor(group[i].root_idxs), of_inputs[idxs])
                judged = True
        if not judged:
            return None
        return costs if self.saved is None else costs * len(costs) / max(1.0, self.saved(group))


def gather(criterion: str, module: nn.Module, context: Context, images: int) -> None:
    """Store what the criterion reads in the parameters' `grad`, computed on training images.

    Criteria that need no images get no gradients. The scores are stored in `grad` because Torch-Pruning
    prunes it together with the weights.
    """
    module.zero_grad(set_to_none=True)
    if criterion not in FROM_IMAGES:
        return
    if criterion == "reconstruction":
        _reconstruction_costs(module, context, images)
        return
    inputs, labels = (torch.from_numpy(array) for array in context.training.labelled(images, context.seed))
    if criterion == "hessian":
        _squared_gradients(module, inputs, labels)
        return
    with _output_gradients(module) if criterion == "sensitivity" else _nothing() as seen:
        for start in range(0, len(inputs), BATCH):
            part = slice(start, start + BATCH)
            loss = functional.cross_entropy(module(inputs[part]), labels[part], reduction="sum")
            (loss / len(inputs)).backward()
    for layer, score in (seen or {}).items():
        if isinstance(layer, Transposed) and layer.groups > 1:  # no axis of its weight stands for the outputs
            layer.weight.grad = None
            continue
        shape = (1, -1) if isinstance(layer, Transposed) else (-1, 1)
        score = score.reshape(shape + (1,) * (layer.weight.ndim - 2))
        layer.weight.grad = score.expand_as(layer.weight).clone()


def _reconstruction_costs(module: nn.Module, context: Context, images: int) -> None:
    """Store the cost of each input of a layer in its weight's `grad`."""
    parts = batches(context.training.sample(images, context.seed), BATCH)
    found = _reconstruction.losses(module, parts, context.seed)
    module.zero_grad(set_to_none=True)
    for layer, costs in found.items():
        shaped = costs.to(layer.weight.dtype).reshape(1, -1, *[1] * (layer.weight.ndim - 2))
        layer.weight.grad = shaped.expand_as(layer.weight).clone()


def _squared_gradients(module: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> None:
    """Store the mean over images of each parameter's squared gradient in its `grad`."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    sums = [torch.zeros_like(p) for p in parameters]
    for image, label in zip(inputs, labels, strict=True):
        loss = functional.cross_entropy(module(image[None]), label[None])
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for total, gradient in zip(sums, gradients, strict=True):
            if gradient is not None:
                total += gradient**2
    for parameter, total in zip(parameters, sums, strict=True):
        parameter.grad = total / len(inputs)


@contextmanager
def _output_gradients(module: nn.Module) -> Iterator[dict[Any, torch.Tensor]]:
    """Collect for each layer the magnitude of the loss's gradient at each output channel, summed over all positions."""
    seen: dict[Any, torch.Tensor] = {}

    def on_output(layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        channel = output.ndim - 1 if isinstance(layer, nn.Linear) else 1

        def on_gradient(gradient: torch.Tensor) -> None:
            total = gradient.abs().sum([d for d in range(gradient.ndim) if d != channel])
            seen[layer] = seen[layer] + total if layer in seen else total

        output.register_hook(on_gradient)

    hooks = [m.register_forward_hook(on_output) for m in module.modules() if isinstance(m, Layer)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _nothing() -> Iterator[None]:
    yield None
