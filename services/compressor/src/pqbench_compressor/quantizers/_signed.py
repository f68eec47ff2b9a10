"""Form A, after NVIDIA's rules for TensorRT: signed symmetric INT8 or FP8 Q/DQ nodes around FP32 tensors.

It quantizes the inputs and weights of compute layers, but not their outputs. Of a residual addition
it quantizes only the skip input, so that convolution, addition and activation fuse. All inputs of a
concatenation have one scale. Biases stay FP32, and so do convolutions with fewer than 16 channels and
weight matrices of one row or column. Sources: ModelOpt's graph_utils.py and ort_utils.py,
pytorch-quantization's quant_resnet50.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from pqbench_compressor.graph import Graph, attribute, weight_axis
from pqbench_compressor.quantizers._ranges import Ranges, joined
from pqbench_wire.errors import Refused

CONVOLUTIONS = ("Conv", "ConvTranspose")
SMALL = 16  # channels: with fewer, INT8 kernels of GPUs gain nothing
LARGE_KERNEL = 32  # taps
INT8_MAX, FP8_MAX = 127.0, 448.0
SMALLEST_SCALE = 1e-7  # TensorRT needs scales above zero; FP16 cannot hold much smaller ones


def signed(model: bytes, ranges: Ranges, keep: Iterable[str] = (), fp8: bool = False) -> bytes:
    """Form A: INT8 or FP8 E4M3 Q/DQ around FP32 tensors; nodes named in `keep` stay FP32.

    Raises Refused if no layer is left to quantize.
    """
    graph = Graph(model)
    ranges, kept = joined(graph, ranges), set(keep)
    chosen = [n for n in worthwhile(graph, fp8) if n.name not in kept]
    if not chosen:
        few = f"has under {SMALL} channels{' in each group, or large kernels' if fp8 else ''}"
        raise Refused(f"nothing to quantize: every layer is kept, or {few}")
    writer = _Writer(graph, fp8)
    for node in chosen:
        node.input[0] = writer.activation(node.input[0], ranges)
        node.input[1] = writer.weight(node)
    convolutions = {n.name for n in chosen if n.op_type in CONVOLUTIONS}
    for node in graph.nodes:
        if node.op_type == "Add" and (index := _skip_input(graph, node, convolutions)) is not None:
            node.input[index] = writer.activation(node.input[index], ranges)
    return writer.finish()


def worthwhile(graph: Graph, fp8: bool = False) -> list[onnx.NodeProto]:
    """The compute nodes that the signed form quantizes: all but small ones."""
    return [node for node in graph.compute_nodes() if not _is_small(graph, node, fp8)]


def weight_scales(weight: np.ndarray, axis: int, largest: float = INT8_MAX) -> np.ndarray:
    """Symmetric scales, float32 [channels], of a weight whose output channels are on `axis`; `largest`: of the type."""
    others = tuple(d for d in range(weight.ndim) if d != axis % weight.ndim)
    return np.maximum(np.abs(weight).max(others) / largest, SMALLEST_SCALE).astype(np.float32)


class _Writer:
    """Inserts Q/DQ pairs, one for each tensor."""

    def __init__(self, graph: Graph, fp8: bool) -> None:
        self._graph, self._largest = graph, FP8_MAX if fp8 else INT8_MAX
        self._type = TensorProto.FLOAT8E4M3FN if fp8 else TensorProto.INT8
        self._done: dict[str, str] = {}
        self._new: list[onnx.NodeProto] = []

    def activation(self, name: str, ranges: Ranges) -> str:
        """The name of an activation's dequantized tensor."""
        if name not in self._done:
            low, high = ranges[name]
            scale = np.float32(max(-low, high, SMALLEST_SCALE * self._largest) / self._largest)
            self._done[name] = self._pair(name, np.asarray(scale), None)
        return self._done[name]

    def weight(self, node: onnx.NodeProto) -> str:
        """The name of a weight's dequantized tensor; the weight stays stored as FP32, before the Q/DQ pair."""
        name, axis = node.input[1], weight_axis(node)
        key = f"{name}@{axis}"
        if key not in self._done:
            array = self._graph.array(name)
            self._done[key] = self._pair(name, weight_scales(array, axis, self._largest), axis % array.ndim)
        return self._done[key]

    def finish(self) -> bytes:
        """The graph's bytes with the new nodes."""
        self._graph.model.graph.node.extend(self._new)
        return self._graph.finish()

    def _pair(self, name: str, scale: np.ndarray, axis: int | None) -> str:
        stem = f"{name}@{axis}" if axis is not None else name
        scale_name = self._graph.add_constant(f"{stem}_scale", scale)
        zero = self._zero(f"{stem}_zero", scale.shape)
        attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
        quantized, dequantized = f"{stem}_quantized", f"{stem}_dequantized"
        for kind, source, target in (
            ("QuantizeLinear", name, quantized),
            ("DequantizeLinear", quantized, dequantized),
        ):
            self._new.append(
                helper.make_node(kind, [source, scale_name, zero], [target], name=f"{target}_node", **attributes)
            )
        return dequantized

    def _zero(self, name: str, shape: tuple[int, ...]) -> str:
        """A zero point of its own: ONNX Runtime's `session.x64quantprecision` fails where weights share one."""
        count = int(np.prod(shape))
        return self._graph.add_tensor(helper.make_tensor(name, self._type, shape, bytes(count), raw=True))


def _is_small(graph: Graph, node: onnx.NodeProto, fp8: bool) -> bool:
    """Whether a convolution has few channels, or a weight matrix only one row or column.

    FP8 convolutions need as many channels in each group, and more of them if their kernels are large (ModelOpt's rule).
    """
    shape = graph.array(node.input[1]).shape
    if node.op_type not in CONVOLUTIONS:
        return min(shape) == 1
    groups = attribute(node, "group", 1)
    if not fp8:
        return min(shape[0], shape[1] * groups) < SMALL
    channels = min(shape[0] // groups, shape[1])
    return channels < SMALL or (channels == SMALL and math.prod(shape[2:]) > LARGE_KERNEL)


def _skip_input(graph: Graph, node: onnx.NodeProto, convolutions: set[str]) -> int | None:
    """The index of the skip input of a residual addition; None if the addition is not residual.

    It is the input that no quantized convolution feeds directly, or the second one if they feed both. Additions to
    matrix products are not counted, as in ModelOpt.
    """
    producers, consumers = graph.producers(), graph.consumers()

    def fuses(name: str) -> bool:
        producer = producers.get(name)
        return producer is not None and producer.name in convolutions and len(consumers[name]) == 1

    straight = [fuses(name) for name in node.input]
    if not any(straight) or any(graph.is_constant(name) for name in node.input):
        return None
    return straight.index(False) if not all(straight) else 1
