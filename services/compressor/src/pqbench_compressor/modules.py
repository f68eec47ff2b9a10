"""Prepares modules for compression: removes wrappers, folds computed weights, returns outputs in plain containers.

What cannot be compressed is refused with a reason in one sentence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

from pqbench_compressor.tensors import leaves, tensors
from pqbench_wire.errors import InvalidInput, Refused, first_line
from pqbench_wire.shared.inputs import Feed

CONVOLUTIONS: dict[Any, type[nn.Module]] = {
    functional.conv1d: nn.Conv1d,
    functional.conv2d: nn.Conv2d,
    functional.conv3d: nn.Conv3d,
}
UNFOLDED = "pqbench_unfolded"  # attribute of a module: names of layers that still compute the weights they apply
SAME = 1e-5  # largest relative error of a plain convolution that replaces a layer


def plain(module: Any, example: Feed | None, where: str) -> nn.Module:
    """The module in evaluation mode, on the CPU, ready to be compressed; `where` names it in errors.

    DataParallel and torch.compile are unwrapped. Weight normalisation, spectral normalisation, other parametrizations
    and masks of torch.nn.utils.prune are replaced by the weights that they compute; so are standardised weights, if an
    `example` input is given (float32 [1, C, H, W] or other inputs). Dataclasses and mappings that the module returns
    become dictionaries. Raises InvalidInput if `module` is not a torch module, Refused if it cannot be compressed.
    """
    if not isinstance(module, nn.Module):
        raise InvalidInput(f"{where} is a {type(module).__name__}, not a torch.nn.Module")
    module = _unwrapped(module)
    if isinstance(module, torch.jit.ScriptModule):
        raise Refused(
            f"{where} is TorchScript, which cannot be pruned or exported; give the module that it was made of"
        )
    module = module.cpu().eval()
    _fold_normalised(module)
    if example is not None and (layers := _overriding(module)):
        _fold_standardised(module, layers, example)
    module.register_forward_hook(lambda _, inputs, outputs: _in_plain_containers(outputs))
    return module


def refusal(module: nn.Module, example: Feed) -> str:
    """Why a module cannot be compressed, found by running it twice on two equal examples; empty if it can."""
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    if other := next((t.dtype for t in state.values() if t.is_floating_point() and t.dtype != torch.float32), None):
        name = str(other).removeprefix("torch.")
        return f"its parameters or buffers are {name}; models are compressed from FP32: return module.float()"
    if bad := next((n for n, t in state.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())), None):
        return f"{bad} has values that are not finite (NaN or infinity)"
    two = example[np.zeros(2, int)]
    try:
        with torch.inference_mode():
            returned, again = (module.eval()(*tensors(two)) for _ in range(2))
    except Exception as error:  # whatever the user's code raises
        return f"it cannot be run on {_described(example)}: {type(error).__name__}: {first_line(error)}"
    outputs, others = leaves(returned), leaves(again)
    if not outputs:
        return f"it returns a {type(returned).__name__} with no tensor in it; return a tensor, a tuple or a dictionary"
    if odd := next((list(o.shape) for o in outputs if not o.ndim or len(o) != 2), None):
        return f"for two examples it returns a tensor {odd}; the first axis of every output must be the batch"
    if any(not torch.equal(a, b) for a, b in zip(outputs, others, strict=True) if bool(torch.isfinite(a).all())):
        return (
            "it gives different outputs for the same input in evaluation mode (dropout or noise that eval() leaves on)"
        )
    return ""


def training_refusal(module: nn.Module, example: Feed) -> str:
    """Why a classifier cannot be trained; empty if it can."""
    if not any(parameter.requires_grad for parameter in module.parameters()):
        return "every parameter of this model is frozen (requires_grad is False), so there is nothing to train"
    was = {name: buffer.clone() for name, buffer in module.named_buffers()}
    try:
        with torch.no_grad():
            returned = module.train()(*tensors(example[np.zeros(2, int)]))
    except Exception as error:  # whatever the user's code raises
        return f"this model cannot be run in training mode: {type(error).__name__}: {first_line(error)}"
    finally:
        module.eval()
        for name, buffer in module.named_buffers():
            buffer.copy_(was[name])
    if not isinstance(returned, torch.Tensor):
        return (
            "in training mode this model returns more than one output (auxiliary heads?); it must return [N, classes]"
        )
    return ""


def unfolded(module: nn.Module) -> str:
    """Why zeros in the stored weights would have no effect; empty if the stored weights are the executed ones."""
    names = getattr(module, UNFOLDED, [])
    return f"{names[0]} transforms its stored weights before it applies them, so they cannot be pruned" if names else ""


def _unwrapped(module: nn.Module) -> nn.Module:
    while True:
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            module = module.module
        elif isinstance(compiled := getattr(module, "_orig_mod", None), nn.Module):
            module = compiled
        else:
            return module


def _fold_normalised(module: nn.Module) -> None:
    """Replace parametrizations, and older hooks that normalise or prune, by the weights that they compute."""
    for layer in list(module.modules()):
        if parametrize.is_parametrized(layer):
            for name in list(cast(Any, layer).parametrizations):
                parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
        for hook in list(layer._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                nn.utils.remove_weight_norm(layer, hook.name)
            elif isinstance(hook, SpectralNorm):
                nn.utils.remove_spectral_norm(layer, hook.name)
            elif isinstance(hook, prune.BasePruningMethod):
                prune.remove(layer, hook._tensor_name)


def _overriding(module: nn.Module) -> dict[str, nn.Module]:
    """The convolutions, by name, whose class overrides the forward computation of PyTorch's class."""

    def is_own(layer: nn.Module, base: type[nn.Module]) -> bool:
        return any(getattr(type(layer), name) is not getattr(base, name) for name in ("forward", "_conv_forward"))

    return {
        name: layer
        for name, layer in module.named_modules()
        for base in CONVOLUTIONS.values()
        if isinstance(layer, base) and is_own(layer, base)
    }


@dataclass
class _Applied:
    """A convolution that a layer executed, with its arguments."""

    kind: type[nn.Module]
    input: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    options: tuple[Any, ...]  # stride, padding, dilation, groups


class _Recorder(TorchFunctionMode):
    """Records the convolutions that are executed."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[_Applied] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in CONVOLUTIONS:
            given = dict(
                zip(("input", "weight", "bias", "stride", "padding", "dilation", "groups"), args, strict=False)
            )
            given |= kwargs or {}
            defaults = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
            options = tuple(given.get(name, default) for name, default in defaults.items())
            self.found.append(_Applied(CONVOLUTIONS[func], given["input"], given["weight"], given.get("bias"), options))
        return func(*args, **(kwargs or {}))


def _fold_standardised(module: nn.Module, layers: Mapping[str, nn.Module], example: Feed) -> None:
    """Replace layers that standardise their weights by plain ones; list those that cannot be replaced in UNFOLDED."""
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def watch(name: str) -> Callable[..., None]:
        return lambda layer, inputs, output: seen.__setitem__(name, (inputs[0], output))

    hooks = [layer.register_forward_hook(watch(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            module(*tensors(example))
    except Exception as error:  # whatever the user's code raises
        raise Refused(
            f"it cannot be run on {_described(example)}: {type(error).__name__}: {first_line(error)}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    left = []
    for name, (x, output) in seen.items():
        recorder = _Recorder()
        with recorder, torch.no_grad():
            layers[name](x)
        if any(_is_own(one.weight, layers[name]) for one in recorder.found):
            continue
        written = _written_out(recorder.found, x, output)
        if written is None:
            left.append(name)
        else:
            parent, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(parent), leaf, written)
    if left:
        setattr(module, UNFOLDED, left)


def _is_own(weight: torch.Tensor, layer: nn.Module) -> bool:
    return weight.data_ptr() == cast(torch.Tensor, layer.weight).data_ptr()


def _written_out(found: list[_Applied], x: torch.Tensor, output: torch.Tensor) -> nn.Module | None:
    """A plain convolution that computes the same as a layer, after padding if the layer pads; None if there is none."""
    if len(found) != 1:
        return None
    one = found[0]
    outputs, inputs, *kernel = one.weight.shape
    stride, padding, dilation, groups = one.options
    layer = cast(Any, one.kind)(
        inputs * groups, outputs, tuple(kernel), stride, padding, dilation, groups, one.bias is not None
    )
    layer.weight.data.copy_(one.weight)
    if one.bias is not None:
        layer.bias.data.copy_(one.bias)
    added = [big - small for big, small in zip(one.input.shape[2:], x.shape[2:], strict=True)]
    if any(added):
        sides = [part for total in reversed(added) for part in (total // 2, total - total // 2)]
        layer = (
            nn.Sequential(nn.ConstantPad2d((sides[0], sides[1], sides[2], sides[3]), 0.0), layer)
            if len(sides) == 4
            else layer
        )
    layer.eval()
    with torch.no_grad():
        try:
            same = torch.allclose(layer(x), output, rtol=SAME, atol=SAME * float(output.abs().max()))
        except RuntimeError:  # the sizes do not match
            return None
    return layer if same else None


def _in_plain_containers(outputs: Any) -> Any:
    """A model's output without None values, and with dataclasses and mappings as dictionaries, which exporters need."""
    if dataclasses.is_dataclass(outputs) and not isinstance(outputs, type):
        outputs = {f.name: getattr(outputs, f.name) for f in dataclasses.fields(outputs)}
        return {name: value for name, value in outputs.items() if value is not None}
    if isinstance(outputs, Mapping) and type(outputs) is not dict:
        return {str(name): value for name, value in outputs.items() if value is not None}
    if type(outputs) in (tuple, list):
        return type(outputs)(value for value in outputs if value is not None)
    if type(outputs) is dict:
        return {name: value for name, value in outputs.items() if value is not None}
    return outputs


def _described(example: Feed) -> str:
    if isinstance(example, np.ndarray):
        return f"an image {list(example.shape[1:])}"
    return ", ".join(f"{name} {list(array.shape[1:])}" for name, array in example.arrays.items())
