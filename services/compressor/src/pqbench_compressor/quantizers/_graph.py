"""An ONNX graph that is being rewritten: who makes and who reads a tensor, constants as arrays."""

from __future__ import annotations

import fnmatch
import itertools
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import numpy_helper

from pqbench_wire.errors import InvalidInput

COMPUTE = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class Graph:
    """A copy of `model`, to be changed through its methods."""

    def __init__(self, model: bytes) -> None:
        self.model = onnx.load_from_string(model)
        self._constants = {i.name: i for i in self.model.graph.initializer}
        self._numbers = itertools.count()

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes in order."""
        return list(self.model.graph.node)

    @property
    def constants(self) -> list[str]:
        """Names of the constants."""
        return list(self._constants)

    def float_nodes(self) -> list[onnx.NodeProto]:
        """The nodes whose first output is an FP32 tensor, by shape inference."""
        inferred = onnx.shape_inference.infer_shapes(self.model).graph
        types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}
        return [n for n in self.nodes if types.get(n.output[0]) == onnx.TensorProto.FLOAT]

    def compute_nodes(self) -> list[onnx.NodeProto]:
        """Convolutions and matrix products with a constant weight, in order."""
        return [n for n in self.nodes if n.op_type in COMPUTE and self.is_constant(n.input[1])]

    def matching(self, patterns: Iterable[str]) -> list[str]:
        """Names of the compute nodes that fit patterns. Raises InvalidInput for one that fits none."""
        names = [n.name for n in self.compute_nodes()]
        chosen = []
        for pattern in patterns:
            found = fnmatch.filter(names, pattern)
            if not found:
                raise InvalidInput(f"keep: no node is called {pattern!r}; nodes are called like {names[0]!r}")
            chosen += found
        return chosen

    def producers(self) -> dict[str, onnx.NodeProto]:
        """The node that makes each tensor."""
        return {name: node for node in self.model.graph.node for name in node.output}

    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """The nodes that read each tensor."""
        found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.model.graph.node:
            for name in node.input:
                found[name].append(node)
        return found

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is stored in the model."""
        return name in self._constants

    def array(self, name: str) -> np.ndarray:
        """A constant's values."""
        return numpy_helper.to_array(self._constants[name])

    def add_constant(self, name: str, array: np.ndarray) -> str:
        """Store a constant under a name that begins with `name`; returns the name."""
        return self.add_tensor(numpy_helper.from_array(np.ascontiguousarray(array), name))

    def add_tensor(self, tensor: onnx.TensorProto) -> str:
        """Store a constant; returns its name, made unique."""
        while tensor.name in self._constants:
            tensor.name = f"{tensor.name.partition('#')[0]}#{next(self._numbers)}"
        self.model.graph.initializer.append(tensor)
        self._constants[tensor.name] = tensor
        return tensor.name

    def replace_constant(self, node: onnx.NodeProto, index: int, array: np.ndarray) -> None:
        """Give one node a constant of its own; others may share the old one."""
        node.input[index] = self.add_constant(node.input[index], array)

    def finish(self, opset: int | None = None) -> bytes:
        """The model's bytes: unused constants dropped, nodes in topological order."""
        graph = self.model.graph
        used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
        kept = [i for i in graph.initializer if i.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        _sort(graph)
        del graph.value_info[:]  # types change with the nodes around them
        if opset is not None:
            own = next(one for one in self.model.opset_import if one.domain in ("", "ai.onnx"))
            own.version = max(own.version, opset)
        return self.model.SerializeToString(deterministic=True)


def weight_axis(node: onnx.NodeProto) -> int:
    """The output-channel axis of a compute node's weight."""
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB") else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": -1}[node.op_type]


def attribute(node: onnx.NodeProto, name: str, default: int = 0) -> int:
    """An integer attribute of a node."""
    return next((a.i for a in node.attribute if a.name == name), default)


def _sort(graph: onnx.GraphProto) -> None:
    made = {i.name for i in graph.initializer} | {i.name for i in graph.input} | {""}
    waiting, ordered = list(graph.node), []
    while waiting:
        ready = [n for n in waiting if all(name in made for name in n.input)]
        if not ready:
            raise ValueError(f"tensor {waiting[0].input[0]} is read and never made")
        rest, known = [], made
        for node in waiting:  # one pass keeps the order of what is ready already
            if all(name in known for name in node.input):
                ordered.append(node)
                known.update(node.output)
            else:
                rest.append(node)
        waiting = rest
    del graph.node[:]
    graph.node.extend(ordered)
