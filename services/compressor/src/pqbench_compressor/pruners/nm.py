"""N:M sparsity: keep the N largest of every M weights along the input channels (Mishra et al., arXiv 2104.08378).

The sparse tensor cores of NVIDIA GPUs, from Ampere on, execute the pattern 2:4. Layers whose number of
input channels is not a multiple of M, and transposed convolutions, stay dense and are listed in the
result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from pydantic import Field
from torch import nn

from pqbench_compressor.graph import attribute
from pqbench_compressor.layers import Transposed
from pqbench_compressor.modules import unfolded
from pqbench_compressor.plugins import Context
from pqbench_compressor.pruners._zero_fill import left_out, prunable, report, zero
from pqbench_compressor.pruners._zero_fill import needs as needs
from pqbench_wire.shared.inputs import Feed

REQUIRES = ("torch", "onnx")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The pattern N:M."""

    n: Annotated[int, Field(ge=1, description="weights kept of every m")] = 2
    m: Annotated[int, Field(ge=2, le=64, description="weights of consecutive input channels in a group")] = 4

    def __post_init__(self) -> None:
        if self.n >= self.m:
            raise ValueError(f"n ({self.n}) must be less than m ({self.m})")


def refusal(module: nn.Module, config: Config, classes: int, example: Feed) -> str:
    """Why no layer of this model can have the pattern; empty if one can."""
    if reason := unfolded(module):
        return reason
    fits = any(_fits(layer, name, config) for layer, name in prunable(module))
    return "" if fits else f"no layer of this model has input channels in multiples of {config.m}"


def prune(module: nn.Module, config: Config, context: Context) -> Mapping[str, Any]:
    dense = []
    names = {id(layer): name for name, layer in module.named_modules()}
    weights = prunable(module)
    for layer, name in weights:
        if _fits(layer, name, config):
            zero(module, layer, name, _mask(getattr(layer, name), config))
        else:
            dense.append(names[id(layer)] if name == "weight" else f"{names[id(layer)]}.{name}")
    return {"pattern": f"{config.n}:{config.m}", "dense": dense} | report(module, weights)


def problem(exported: bytes, module: nn.Module, config: Config) -> str:
    """A message that names the first weight of the exported ONNX model without the pattern; empty if all have it.

    Two kinds of weights need no pattern: those whose number of input channels is not a multiple of `m`, and those of
    `module` that are not prunable. Export may transpose and rename the latter, so they are recognised by their values.
    """
    others = [_sorted(p.detach().numpy()) for p in left_out(module, prunable(module)).values()]
    model = onnx.load_from_string(exported)
    weights = {i.name: i for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in weights:
            continue
        array = numpy_helper.to_array(weights[node.input[1]])
        inputs_first = node.op_type == "MatMul" or (not attribute(node, "transB") and node.op_type == "Gemm")
        by_input = array if inputs_first else np.moveaxis(array, 1, 0)
        if len(by_input) % config.m or len(by_input) == 1:
            continue
        groups = by_input.reshape(-1, config.m, *by_input.shape[1:])
        lost = (np.count_nonzero(groups, axis=1) > config.n).any()
        if lost and not any(np.array_equal(_sorted(array), other) for other in others):
            return f"{node.input[1]} is not {config.n}:{config.m} sparse after export"
    return ""


def _sorted(array: np.ndarray) -> np.ndarray:
    return np.sort(array, axis=None)


def _fits(layer: nn.Module, name: str, config: Config) -> bool:
    """Whether a weight can have the pattern. Transposed convolutions cannot: no hardware supports it there."""
    weight: torch.Tensor = getattr(layer, name)
    return not isinstance(layer, Transposed) and weight.shape[1] % config.m == 0


def _mask(weight: torch.Tensor, config: Config) -> torch.Tensor:
    """A mask: 1 for the n largest magnitudes in every group of m along dimension 1, else 0; ties go by position."""
    along = weight.detach().abs().movedim(1, -1)
    groups = along.reshape(*along.shape[:-1], -1, config.m)
    largest = groups.argsort(dim=-1, descending=True, stable=True)[..., : config.n]
    return torch.zeros_like(groups).scatter_(-1, largest, 1).reshape(along.shape).movedim(-1, 1)
