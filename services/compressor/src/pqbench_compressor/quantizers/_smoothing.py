"""SmoothQuant, which makes a model easier to quantize, and bias correction, which corrects a mean rounding error.

SmoothQuant: Xiao et al., arXiv 2211.10438. Bias correction: Nagel et al., arXiv 1906.04721, section 4.2,
with input means measured on training images.
"""

from __future__ import annotations

import numpy as np
import onnx

from pqbench_compressor.graph import Graph, attribute, weight_axis
from pqbench_compressor.quantizers._calibration import Calibration
from pqbench_compressor.quantizers._signed import weight_scales

SMALLEST = 1e-5  # lower bound of a channel's largest magnitude


def smoothable(model: bytes) -> dict[str, int]:
    """Outputs of layer normalisations that only matrix products read -> their channel axis."""
    return dict.fromkeys((name for name, _, _ in _pairs(Graph(model))), -1)


def smooth(model: bytes, calibration: Calibration, strength: float) -> bytes:
    """Move part of the spread between activation channels into the weights that follow.

    Channel j of a layer normalisation's output is divided by max|x_j|^strength / max|w_j|^(1 -
    strength), and row j of the weights multiplied by it.
    """
    graph = Graph(model)
    for name, norm, products in _pairs(graph):
        activation = calibration.activations[name].channel_max
        assert activation is not None
        weights = [graph.array(node.input[1]) for node in products]
        largest = np.max([np.abs(weight).max(1) for weight in weights], axis=0)
        scale = np.maximum(activation, SMALLEST) ** strength / np.maximum(largest, SMALLEST) ** (1 - strength)
        scale = np.maximum(scale, SMALLEST).astype(np.float32)
        for index in range(1, len(norm.input)):
            graph.replace_constant(norm, index, graph.array(norm.input[index]) / scale)
        for node, weight in zip(products, weights, strict=True):
            graph.replace_constant(node, 1, weight * scale[:, None])
    return graph.finish()


def correct_biases(model: bytes, calibration: Calibration, quantized: set[str], largest: float) -> bytes:
    """Subtract from the biases the mean error that rounding the weights adds to each output channel.

    `quantized` names the nodes whose weights will be rounded to integers of at most `largest`. Nodes without a
    bias (as any MatMul, whose bias is a separate addition) and transposed convolutions are left as they are.
    """
    graph = Graph(model)
    for node in graph.compute_nodes():
        watched = calibration.activations.get(node.input[0])
        if node.name not in quantized or len(node.input) < 3 or not node.input[2] or watched is None:
            continue
        shift = _mean_shift(graph, node, watched.channel_mean, largest)
        if shift is not None:
            graph.replace_constant(node, 2, graph.array(node.input[2]) - shift)
    return graph.finish()


def _mean_shift(graph: Graph, node: onnx.NodeProto, mean: np.ndarray, largest: float) -> np.ndarray | None:
    """E[(W_quantized - W) x] for each output channel, float32 [channels]; None for transposed convolutions."""
    weight, axis = graph.array(node.input[1]), weight_axis(node) % 2
    shape = [1] * weight.ndim
    shape[axis] = -1
    scale = weight_scales(weight, axis, largest).reshape(shape)
    error = np.clip(np.round(weight / scale), -largest, largest) * scale - weight
    if node.op_type == "Gemm":
        return (error @ mean if axis == 0 else mean @ error).astype(np.float32)
    if node.op_type != "Conv":
        return None
    groups = attribute(node, "group", 1)
    by_input = error.sum(tuple(range(2, error.ndim))).reshape(groups, -1, weight.shape[1])
    return np.einsum("goi,gi->go", by_input, mean.reshape(groups, -1)).ravel().astype(np.float32)


def _pairs(graph: Graph) -> list[tuple[str, onnx.NodeProto, list[onnx.NodeProto]]]:
    consumers = graph.consumers()
    outputs = {o.name for o in graph.model.graph.output}
    found = []
    for norm in (n for n in graph.nodes if n.op_type == "LayerNormalization"):
        name = norm.output[0]
        products = consumers[name]
        if products and name not in outputs and all(_is_product(graph, node, name) for node in products):
            found.append((name, norm, products))
    return found


def _is_product(graph: Graph, node: onnx.NodeProto, name: str) -> bool:
    return node.op_type == "MatMul" and node.input[0] == name and graph.is_constant(node.input[1])
