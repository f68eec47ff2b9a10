"""What channel removal needs to know about a model: attention heads and layers of fixed width."""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import nn
from torchvision.models.shufflenetv2 import InvertedResidual, ShuffleNetV2

from pqbench_compressor.layers import Layer
from pqbench_compressor.tensors import leaves
from pqbench_wire.errors import InvalidInput


def attentions(module: nn.Module) -> list[nn.Module]:
    """The self-attention modules whose heads can be pruned: with a `qkv` layer, or with layers `q`, `k` and `v`."""
    return [m for m in module.modules() if isinstance(getattr(m, "num_heads", None), int) and projections(m)]


def projections(attention: nn.Module) -> list[nn.Linear]:
    """The projection layers of an attention: [qkv], or [q, k, v]; empty if it has neither as linear layers."""
    fused = getattr(attention, "qkv", None)
    found = [fused] if fused is not None else [getattr(attention, name, None) for name in "qkv"]
    return cast("list[nn.Linear]", found) if all(isinstance(layer, nn.Linear) for layer in found) else []


def heads(module: nn.Module) -> dict[nn.Linear, int]:
    """The number of heads of each projection layer, as Torch-Pruning's argument `num_heads`."""
    return {layer: cast(int, a.num_heads) for a in attentions(module) for layer in projections(a)}


def mend(module: nn.Module, left: dict[nn.Linear, int]) -> None:
    """Update the integer attributes that some architectures compute with to the pruned widths, in place.

    `left` holds the number of heads that each projection layer still has.
    """
    for attention in attentions(module):
        layers = projections(attention)
        fused = 3 if len(layers) == 1 else 1
        numbers: dict[str, int] = {"num_heads": left[layers[0]]}
        numbers["head_dim"] = layers[0].out_features // (numbers["num_heads"] * fused)
        numbers["attn_dim"] = numbers["num_heads"] * numbers["head_dim"]
        for name, value in numbers.items():
            if hasattr(attention, name):
                setattr(attention, name, value)
    projection = getattr(module, "conv_proj", None)  # torchvision's VisionTransformer reshapes to its hidden_dim
    if isinstance(projection, nn.Conv2d) and hasattr(module, "hidden_dim"):
        setattr(module, "hidden_dim", projection.out_channels)  # noqa: B010 (mypy takes modules' attributes for tensors)


def kept(module: nn.Module, example: torch.Tensor, patterns: Iterable[str]) -> list[nn.Module]:
    """The layers whose output channels must stay.

    These are the last layers before the model's outputs, those that `layers_to_keep()` of the model returns, those
    whose names match `patterns`, and those whose outputs ShuffleNet V2 shuffles. Raises InvalidInput for a pattern that
    matches no layer.
    """
    heads = _last(module, example)
    named = cast(Any, getattr(module, "layers_to_keep", list))()
    layers = {name: m for name, m in module.named_modules() if isinstance(m, Layer)}
    chosen = []
    for pattern in patterns:
        matching = [m for name, m in layers.items() if fnmatch.fnmatchcase(name, pattern)]
        if not matching:
            raise InvalidInput(f"keep: no layer matches {pattern!r}; layer names look like {next(iter(layers))!r}")
        chosen += matching
    return [*heads, *named, *chosen, *_shuffled(module)]


def forward_for_tracing(module: nn.Module, example: torch.Tensor) -> Any:
    """A forward pass from which Torch-Pruning learns which layers depend on each other.

    It cannot follow the channel shuffles of ShuffleNet V2. There, each block is detached from the next,
    which hides no dependency because the layers whose outputs are shuffled keep their channels.
    """
    blocks = [m for m in module.modules() if isinstance(m, InvertedResidual)]
    seen: list[torch.Tensor] = []
    for block in blocks:
        block.forward = functools.partial(_alone, block, seen)
    try:
        return [module(example), *seen]
    finally:
        for block in blocks:
            del block.forward


def _alone(block: InvertedResidual, seen: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    left, right = x.detach().chunk(2, 1) if block.stride == 1 else (x.detach(), x.detach())
    seen.append(block.branch2(right))
    return torch.cat((block.branch1(left), seen[-1]), 1).detach()


def _last(module: nn.Module, example: torch.Tensor) -> list[nn.Module]:
    """The layers with no other layer between them and an output, found in the autograd graph."""
    layer_of: dict[Any, nn.Module] = {}

    def note(layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        layer_of[output.grad_fn] = layer

    hooks = [layer.register_forward_hook(note) for layer in module.modules() if isinstance(layer, Layer)]
    with torch.enable_grad():
        outputs = leaves(module(example.clone().requires_grad_()))
    for hook in hooks:
        hook.remove()
    found, seen, waiting = [], set(), [output.grad_fn for output in outputs]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in layer_of:
            found.append(layer_of[node])
        else:
            waiting += [before for before, _ in node.next_functions]
    return found


def _shuffled(network: nn.Module) -> list[nn.Module]:
    """The layers of ShuffleNet V2 that determine the width of shuffled tensors; empty for other models."""
    if not isinstance(network, ShuffleNetV2):
        return []
    blocks = [m for m in network.modules() if isinstance(m, InvertedResidual)]
    ends = [[m for m in block.branch2 if isinstance(m, nn.Conv2d)][-1] for block in blocks]
    return [network.conv1, *(block.branch1 for block in blocks), *ends]


def shared(module: nn.Module) -> set[nn.Module]:
    """The layers that share a parameter with another layer; pruning only one of them would end the sharing."""
    owners: dict[int, list[nn.Module]] = {}
    for layer in module.modules():
        for parameter in layer.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(layer)
    return {layer for layers in owners.values() if len(layers) > 1 for layer in layers}
