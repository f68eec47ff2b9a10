"""Cross-layer equalization (Nagel et al., arXiv 1906.04721, section 4.1; no data are needed).

A channel of a tensor can be divided by a number, if the weights that make it are divided and the weights that read it
are multiplied by the same number. This holds through everything that scales with its inputs: ReLU, pooling, and
additions, so that all layers of a residual stream are equalized at once. Afterwards, the weights that make a channel
and those that read it have equal ranges, which makes the ranges of the channels of a tensor more alike. Clips, as in
ReLU6, and normalisations do not scale with their inputs; the tensors beside them stay as they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx

from pqbench_compressor.graph import Graph, attribute, reads

SCALING = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity", "Add")
ROUNDS = 20  # over all tensors: equalizing one changes the ranges of its neighbours
SMALLEST = 1e-8  # range of a channel's weights; with smaller ones on one side, the channel stays as it is


@dataclass
class _Stream:
    """Tensors with the same channels, the layers that make them and the layers that read them."""

    makers: list[str] = field(default_factory=list)
    readers: list[str] = field(default_factory=list)


def equalize(model: bytes) -> tuple[bytes, int]:
    """The model with equalized weights, which computes the same, and how many sets of tensors were equalized."""
    graph = Graph(model)
    layers = {n.name: _Layer(graph, n) for n in graph.compute_nodes() if n.op_type == "Conv"}
    streams = [
        stream
        for stream in _streams(graph, layers)
        if len({layers[name].outputs for name in stream.makers} | {layers[name].inputs for name in stream.readers}) == 1
    ]
    for _ in range(ROUNDS):
        for stream in streams:
            makers, readers = ([layers[name] for name in names] for names in (stream.makers, stream.readers))
            scale = _scale(
                np.max([layer.ranges_of_outputs() for layer in makers], axis=0),
                np.max([layer.ranges_of_inputs() for layer in readers], axis=0),
            )
            for layer in makers:
                layer.divide_outputs(scale)
            for layer in readers:
                layer.multiply_inputs(scale)
    for name in {name for stream in streams for name in (*stream.makers, *stream.readers)}:
        layers[name].write(graph)
    return graph.finish(), len(streams)


def _scale(made: np.ndarray, read: np.ndarray) -> np.ndarray:
    """By what to divide the channels, float32 [channels], so that both ranges become equal."""
    usable = (made > SMALLEST) & (read > SMALLEST)
    ratio = np.divide(made, read, out=np.ones_like(made), where=usable)
    return np.sqrt(ratio)


def _streams(graph: Graph, layers: Iterable[str]) -> list[_Stream]:
    """The sets of tensors that can be equalized."""
    joined, blocked, layers = _Joined(), {o.name for o in graph.model.graph.output}, set(layers)
    made, read = {}, defaultdict(list)
    for node in graph.nodes:
        tensors = [name for name in (*reads(node), *node.output) if not graph.is_constant(name)]
        if node.name in layers:
            made[node.output[0]] = node.name
            read[node.input[0]].append(node.name)
        elif node.op_type in SCALING and len(tensors) == len(reads(node)) + 1:
            joined.join(tensors)
        else:
            blocked.update(tensors)
    blocked.update(i.name for i in graph.model.graph.input)
    streams: dict[str, _Stream] = defaultdict(_Stream)
    for tensor in dict.fromkeys([*made, *read, *joined.known]):
        stream = streams[joined.root(tensor)]
        stream.makers += [made[tensor]] if tensor in made else []
        stream.readers += read.get(tensor, [])
    barred = {joined.root(tensor) for tensor in blocked}
    return [one for root, one in streams.items() if root not in barred and one.makers and one.readers]


class _Joined:
    """Sets of tensors, joined one after the other (union-find)."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    def root(self, tensor: str) -> str:
        while self.known.get(tensor, tensor) != tensor:
            tensor = self.known[tensor]
        return tensor

    def join(self, tensors: list[str]) -> None:
        root = self.root(tensors[0])
        for tensor in tensors:
            self.known[self.root(tensor)] = root


class _Layer:
    """A convolution's weight, seen by groups [groups, outputs, inputs, taps], and its bias."""

    def __init__(self, graph: Graph, node: onnx.NodeProto) -> None:
        self._node, weight, groups = node, graph.array(node.input[1]), attribute(node, "group", 1)
        self._shape = weight.shape
        self._weight = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1).copy()
        self._bias = graph.array(node.input[2]).copy() if len(node.input) > 2 and node.input[2] else None
        self.outputs, self.inputs = len(weight), groups * weight.shape[1]

    def ranges_of_outputs(self) -> np.ndarray:
        return np.abs(self._weight).max((2, 3)).ravel()

    def ranges_of_inputs(self) -> np.ndarray:
        return np.abs(self._weight).max((1, 3)).ravel()

    def divide_outputs(self, scale: np.ndarray) -> None:
        self._weight /= scale.reshape(*self._weight.shape[:2], 1, 1)
        if self._bias is not None:
            self._bias /= scale

    def multiply_inputs(self, scale: np.ndarray) -> None:
        groups, _, inputs, _ = self._weight.shape
        self._weight *= scale.reshape(groups, 1, inputs, 1)

    def write(self, graph: Graph) -> None:
        graph.replace_constant(self._node, 1, self._weight.reshape(self._shape))
        if self._bias is not None:
            graph.replace_constant(self._node, 2, self._bias)
