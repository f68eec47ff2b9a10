"""Which tensors of a graph are given ranges, and which of them share one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from pqbench_compressor.graph import Graph

Ranges = Mapping[str, tuple[float, float]]  # tensor -> (low, high)
CARRIERS = ("Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Relu", "Clip", "Reshape", "Transpose",
            "Split", "Slice", "Pad")  # fmt: skip


def watched(graph: Graph) -> dict[str, int | None]:
    """The tensors whose ranges any form may need -> their channel axis; None if channels are not watched."""
    axes: dict[str, int | None] = {}
    for node in graph.compute_nodes():
        product = node.op_type in ("MatMul", "Gemm")
        axes[node.input[0]] = -1 if product else 1
        if not product:
            axes[node.output[0]] = 1
    for node in carriers(graph):
        for name in [*node.input, *node.output]:
            if name and not graph.is_constant(name):
                axes.setdefault(name, None)
    convolved = {name for n in graph.compute_nodes() if n.op_type.startswith("Conv") for name in n.output}
    for node in graph.nodes:
        if node.op_type == "Add" and convolved.intersection(node.input):
            axes.update({name: None for name in node.input if name not in axes and not graph.is_constant(name)})
    return axes


def carriers(graph: Graph) -> list[onnx.NodeProto]:
    """The nodes that only move, clip, pool or add outputs of convolutions: in form U they run as integers."""
    outputs: set[str] = set()
    found = []
    for node in graph.nodes:
        inputs = [name for name in node.input if name and not graph.is_constant(name)]
        carries = node.op_type in CARRIERS and bool(inputs) and all(name in outputs for name in inputs)
        carries = carries and not _pads_with_infinity(graph, node)
        if carries:
            found.append(node)
        if carries or node.op_type in ("Conv", "ConvTranspose", "HardSwish"):
            outputs.update(node.output)
    return found


def joined(graph: Graph, ranges: Ranges) -> dict[str, tuple[float, float]]:
    """The ranges, with one common range for the inputs and the output of each concatenation."""
    result = dict(ranges)
    for node in reversed(graph.nodes):
        names = [name for name in [*node.input, *node.output] if name in result]
        if node.op_type == "Concat" and names:
            lows, highs = zip(*(result[name] for name in names), strict=True)
            result.update(dict.fromkeys(names, (min(lows), max(highs))))
    return result


def _pads_with_infinity(graph: Graph, node: onnx.NodeProto) -> bool:
    value = node.input[2] if node.op_type == "Pad" and len(node.input) > 2 else ""
    return bool(value) and not (graph.is_constant(value) and bool(np.isfinite(graph.array(value)).all()))
