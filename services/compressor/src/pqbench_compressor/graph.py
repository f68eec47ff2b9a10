"""An ONNX graph that is being rewritten: who makes and who reads a tensor, constants as arrays."""

from __future__ import annotations

import fnmatch
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from pqbench_wire.errors import Failed, InvalidInput, Refused
from pqbench_wire.onnx_walk import inner_graphs

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

    def floats(self) -> set[str]:
        """The FP32 tensors, by shape inference."""
        inferred = onnx.shape_inference.infer_shapes(self.model).graph
        values = (*inferred.input, *inferred.value_info, *inferred.output)
        return {v.name for v in values if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}

    def float_nodes(self) -> list[onnx.NodeProto]:
        """The nodes whose first output is an FP32 tensor."""
        floats = self.floats()
        return [n for n in self.nodes if n.output[0] in floats]

    def compute_nodes(self) -> list[onnx.NodeProto]:
        """Convolutions and matrix products that can be quantized, in order."""
        return [n for n in self.nodes if n.op_type in COMPUTE and not self.hindrance(n)]

    def notes(self) -> dict[str, dict[str, str]]:
        """What to report of the layers that stay in FP32, where there are any."""
        left = self.left_out()
        return {"left_fp32": left} if left else {}

    def left_out(self) -> dict[str, str]:
        """Convolutions and products with a weight that stay as they are: name -> why."""
        products = [
            n for n in self.nodes if n.op_type in COMPUTE and (n.op_type != "MatMul" or self.is_constant(n.input[1]))
        ]
        return {n.name: reason for n in products if (reason := self.hindrance(n))}

    def hindrance(self, node: onnx.NodeProto) -> str:
        """Why a convolution or product cannot be quantized; empty where it can."""
        if not self.is_constant(node.input[1]):
            return "its weight is no constant"
        weight = self._constants[node.input[1]]
        if weight.data_type != onnx.TensorProto.FLOAT or not all(weight.dims):
            return "its weight is not FP32, or empty"
        if node.op_type == "Gemm" and attribute(node, "transA"):
            return "its input is transposed"
        if node.op_type == "ConvTranspose" and attribute(node, "group", 1) > 1:
            return "its output channels are in groups"
        if node.op_type == "MatMul" and len(weight.dims) != 2:
            return "its weight is no matrix"
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias and not self.is_constant(bias):
            return "its bias is no constant"
        if bias and len(self._constants[bias].dims) != 1:
            return "its bias is no vector"
        return ""

    def matching(self, patterns: Iterable[str]) -> list[str]:
        """Names of the compute nodes that fit patterns. Raises InvalidInput for one that fits none."""
        names = [n.name for n in self.compute_nodes()]
        chosen = []
        for pattern in patterns:
            found = fnmatch.filter(names, pattern)
            if not found:
                example = f"nodes are called like {names[0]!r}" if names else "this model has no compute nodes"
                raise InvalidInput(f"keep: no node is called {pattern!r}; {example}")
            chosen += found
        return chosen

    def producers(self) -> dict[str, onnx.NodeProto]:
        """The node that makes each tensor."""
        return {name: node for node in self.model.graph.node for name in node.output}

    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """The nodes that read each tensor."""
        found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.model.graph.node:
            for name in reads(node):
                found[name].append(node)
        return found

    def isolate(self) -> list[str]:
        """Let graphs inside nodes read copies of what they take from outside: rewriting the outside leaves these alone.

        Returns the names of the nodes that copy, and of the nodes with graphs inside.
        """
        kept: list[str] = []
        copies: dict[str, str] = {}
        for node in [n for n in self.nodes if any(True for _ in inner_graphs(n))]:
            kept.append(node.name)
            names = read_inside(node)
            copies |= {name: f"{name}#inner" for name in names}
            for inner in inner_graphs(node):
                for one in inner.node:
                    _rename_reads(one, {name: f"{name}#inner" for name in names})
        for name, copy in copies.items():
            kept.append(f"{copy}_node")
            self.model.graph.node.append(onnx.helper.make_node("Identity", [name], [copy], name=kept[-1]))
        _sort(self.model.graph)
        return kept

    def rename_reads(self, names: Mapping[str, str]) -> None:
        """Let every node, those of graphs in nodes too, read other tensors."""
        for node in self.model.graph.node:
            _rename_reads(node, names)

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
        used = {name for node in graph.node for name in reads(node)} | {o.name for o in graph.output}
        kept = [i for i in graph.initializer if i.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        _sort(graph)
        del graph.value_info[:]  # types change with the nodes around them
        if opset is not None:
            own = next((one for one in self.model.opset_import if one.domain in ("", "ai.onnx")), None)
            if own is None:
                raise Refused("this model has no operator of ONNX's own")
            own.version = max(own.version, opset)
        return self.model.SerializeToString(deterministic=True)


def reads(node: onnx.NodeProto) -> list[str]:
    """The tensors that a node reads: its inputs, and what graphs inside it take from outside."""
    return list(dict.fromkeys([*(name for name in node.input if name), *read_inside(node)]))


def read_inside(node: onnx.NodeProto) -> list[str]:
    """The tensors that graphs inside a node take from outside."""
    found = []
    for inner in inner_graphs(node):
        own = {i.name for i in inner.initializer} | {i.name for i in inner.input}
        own |= {name for one in inner.node for name in one.output}
        found += [name for one in inner.node for name in reads(one) if name not in own]
        found += [o.name for o in inner.output if o.name not in own]
    return list(dict.fromkeys(found))


def _rename_reads(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    node.input[:] = [names.get(name, name) for name in node.input]
    for inner in inner_graphs(node):
        for one in inner.node:
            _rename_reads(one, names)


def weight_axis(node: onnx.NodeProto) -> int:
    """The output-channel axis of a compute node's weight."""
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB") else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": -1}[node.op_type]


def attribute(node: onnx.NodeProto, name: str, default: int = 0) -> int:
    """An integer attribute of a node."""
    return next((a.i for a in node.attribute if a.name == name), default)


def _sort(graph: onnx.GraphProto) -> None:
    known = {i.name for i in graph.initializer} | {i.name for i in graph.input} | {""}
    waiting, ordered = list(graph.node), []
    while waiting:
        ready = [n for n in waiting if all(name in known for name in reads(n))]
        if not ready:
            missing = next(name for name in reads(waiting[0]) if name not in known)
            raise Failed(f"tensor {missing} is read and never made")
        rest, so_far = [], known
        for node in waiting:  # one pass keeps the order of what is ready already
            if all(name in so_far for name in reads(node)):
                ordered.append(node)
                so_far.update(node.output)
            else:
                rest.append(node)
        waiting = rest
    del graph.node[:]
    graph.node.extend(ordered)
