"""Statistics of a model: parameters, non-zeros and multiply-accumulates (MACs), in total and for each layer."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pqbench.compressor.v1.compressor_pb2 import LayerStatistics, Statistics
from pqbench_compressor.layers import Layer
from pqbench_compressor.tensors import plain_attention, tensors
from pqbench_wire.shared.inputs import Feed


def of_module(module: nn.Module, example: Feed, state_dict_bytes: int) -> Statistics:
    """Statistics of a PyTorch model; MACs are those of one example, by PyTorch's FLOP counter (two FLOPs per MAC)."""
    counter = count(module, tensors(example[:1]))
    flops = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    layers = [_layer(name, m, flops) for name, m in module.named_modules() if isinstance(m, Layer)]
    parameters = list(module.parameters())
    return Statistics(
        parameters=sum(p.numel() for p in parameters),
        nonzeros=sum(int(torch.count_nonzero(p)) for p in parameters),
        macs=counter.get_total_flops() // 2,
        state_dict_bytes=state_dict_bytes,
        layers=layers,
    )


def count(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> FlopCounterMode:
    """FLOPs of one run, by module.

    Parameters do not require gradients meanwhile, because the counter fails on views of parameters that do.
    """
    frozen = [parameter for parameter in module.parameters() if parameter.requires_grad]
    counter = FlopCounterMode(display=False)
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        with counter, plain_attention(), torch.no_grad():
            module.eval()(*inputs)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    return counter


def _layer(name: str, module: nn.Module, flops: dict[str, int]) -> LayerStatistics:
    parameters = list(module.parameters())
    return LayerStatistics(
        name=name,
        type=type(module).__name__,
        parameters=sum(p.numel() for p in parameters),
        nonzeros=sum(int(torch.count_nonzero(p)) for p in parameters),
        macs=next((count // 2 for key, count in flops.items() if key.partition(".")[2] == name), 0),
        weight_shape=list(parameters[0].shape),
    )


def of_onnx(data: bytes) -> Statistics:
    """Statistics of an ONNX file; its MACs are not counted and so absent."""
    arrays = {i.name: numpy_helper.to_array(i) for i in onnx.load_from_string(data).graph.initializer}
    floats = {name: array for name, array in arrays.items() if np.issubdtype(array.dtype, np.floating)}
    layers = [
        LayerStatistics(
            name=name, type="initializer", parameters=a.size, nonzeros=int(np.count_nonzero(a)), weight_shape=a.shape
        )
        for name, a in floats.items()
        if a.ndim > 1
    ]
    return Statistics(
        parameters=sum(a.size for a in floats.values()),
        nonzeros=sum(int(np.count_nonzero(a)) for a in floats.values()),
        layers=layers,
    )
