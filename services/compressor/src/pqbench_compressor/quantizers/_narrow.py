"""Converts a module to FP16 or BF16 with FP32 inputs and outputs."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from pqbench_compressor.tensors import tensors
from pqbench_wire.errors import Refused
from pqbench_wire.shared.inputs import Feed


class Island(nn.Module):
    """A layer that stays FP32 and returns FP32, because its values may exceed the range of the narrow type."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The layer's outputs for its inputs, with floating-point inputs cast to FP32."""
        return self.layer(*_cast(inputs, torch.float32), **_cast(named, torch.float32))


def narrowed(module: nn.Module | None, dtype: torch.dtype, images: Feed, limit: float) -> tuple[nn.Module, list[str]]:
    """A copy in `dtype`, and the names of the modules that stay FP32 because on `images` values exceed `limit`.

    Raises Refused if there is no module (an ONNX file), or if values exceed the limit outside of all layers.
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
    """The values with floating-point tensors cast to `dtype`, also in nested containers; the rest is unchanged."""
    return pytree.tree_map_only(torch.Tensor, lambda x: x.to(dtype) if x.is_floating_point() else x, values)


def _narrow_inputs(module: nn.Module, dtype: torch.dtype) -> None:
    """Make every layer outside an Island cast its inputs to `dtype`, because an Island returns FP32."""

    islands = [name for name, layer in module.named_modules() if isinstance(layer, Island)]
    for name, layer in module.named_modules():
        has_weights = any(True for _ in layer.parameters(recurse=False))
        leaf = not list(layer.children()) or has_weights
        if name and leaf and not any(name == island or name.startswith(f"{island}.") for island in islands):
            layer.register_forward_pre_hook(
                lambda _, inputs, named: (_cast(inputs, dtype), _cast(named, dtype)), with_kwargs=True
            )


def _beyond(module: nn.Module, images: Feed, limit: float) -> list[str]:
    """Names of the modules in whose own code a value exceeds `limit` on some image; submodules of these are omitted.

    Every operator is watched, so that an expression in a `forward` counts as well as a layer. Raises Refused if the
    model's own `forward` exceeds the limit: the whole model would have to stay FP32.
    """
    if math.isinf(limit):
        return []
    watcher, inputs = _Watcher(module, limit), tensors(images)
    with watcher, torch.no_grad():
        module(*inputs)
    watcher.remove()
    if "" in watcher.found:
        raise Refused("values exceed the FP16 range in the model's own forward(), outside its layers")
    return [name for name in watcher.found if not any(name.startswith(f"{other}.") for other in watcher.found)]


class _Watcher(TorchDispatchMode):
    """Records the innermost modules that run an operator whose inputs or outputs exceed a limit."""

    def __init__(self, module: nn.Module, limit: float) -> None:
        super().__init__()
        self.found: dict[str, None] = {}
        self._limit, self._running = limit, [""]
        layers = [(name, layer) for name, layer in module.named_modules() if name]
        self._hooks = [layer.register_forward_pre_hook(self._enter(name)) for name, layer in layers]
        self._hooks += [layer.register_forward_hook(self._leave) for _, layer in layers]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if "empty" in func.name():  # its memory is not initialised yet
            return output
        if any(self._exceeds(one) for one in pytree.tree_leaves((args, kwargs, output))):
            self.found[self._running[-1]] = None
        return output

    def remove(self) -> None:
        """Remove the hooks from the module."""
        for hook in self._hooks:
            hook.remove()

    def _exceeds(self, value: Any) -> bool:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or not value.numel():
            return False
        finite = value[torch.isfinite(value)].abs()  # FP16 can represent infinities too
        return bool(finite.numel()) and float(finite.max()) > self._limit

    def _enter(self, name: str) -> Any:
        return lambda layer, inputs: self._running.append(name)

    def _leave(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        self._running.pop()
