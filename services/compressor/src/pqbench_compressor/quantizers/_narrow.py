"""A module in FP16 or BF16 between FP32 inputs and outputs."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from pqbench_compressor.tensors import tensors
from pqbench_wire.errors import Refused
from pqbench_wire.inputs import Feed


class Island(nn.Module):
    """A layer that stays FP32, and passes FP32 on: what it makes may be beyond the narrow type."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any floating-point tensor to a float32 one."""
        return self.layer(x.float())


def narrowed(module: nn.Module | None, dtype: torch.dtype, images: Feed, limit: float) -> tuple[nn.Module, list[str]]:
    """A copy in `dtype`, and the names of the layers that stay FP32 because their values exceed `limit`.

    Raises Refused for a model that came as ONNX and has no module.
    """
    if module is None:
        raise Refused("an ONNX file has no PyTorch module to convert")
    copied = copy.deepcopy(module).eval()
    wide = _beyond(copied, images, limit)
    copied.to(dtype)
    for name in wide:
        parent, _, leaf = name.rpartition(".")
        layer = copy.deepcopy(module.get_submodule(name)).eval()
        setattr(copied.get_submodule(parent), leaf, Island(layer))
    if wide:
        _narrow_inputs(copied, dtype)
    copied.register_forward_pre_hook(lambda _, inputs: _cast(inputs, dtype))
    copied.register_forward_hook(lambda _, inputs, outputs: _cast(outputs, torch.float32))
    return copied, wide


def _cast(values: Any, dtype: torch.dtype) -> Any:
    """Floating-point tensors as `dtype`, in whatever they are packed; others as they are."""
    return pytree.tree_map_only(torch.Tensor, lambda x: x.to(dtype) if x.is_floating_point() else x, values)


def _narrow_inputs(module: nn.Module, dtype: torch.dtype) -> None:
    """Let every layer outside an island cast the FP32 that an island passed on."""

    islands = [name for name, layer in module.named_modules() if isinstance(layer, Island)]
    for name, layer in module.named_modules():
        if not list(layer.children()) and not any(name.startswith(f"{island}.") for island in islands):
            layer.register_forward_pre_hook(lambda _, inputs: _cast(inputs, dtype))


def _beyond(module: nn.Module, images: Feed, limit: float) -> list[str]:
    """Names of the layers without children whose input or output exceeds `limit` on some image."""
    found: dict[str, None] = {}

    def watch(name: str) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
            tensors = [t for t in (*inputs, output) if isinstance(t, torch.Tensor) and t.is_floating_point()]
            if any(float(t.abs().max()) > limit for t in tensors):
                found[name] = None

        return hook

    leaves = {name: m for name, m in module.named_modules() if name and not list(m.children())}
    hooks = [layer.register_forward_hook(watch(name)) for name, layer in leaves.items()]
    with torch.no_grad():
        module(*tensors(images))
    for hook in hooks:
        hook.remove()
    return list(found)
