"""Helpers to rewrite an ONNX graph: which nodes write and read a tensor, constants as arrays, subgraphs."""

from __future__ import annotations

import fnmatch
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from pqbench_wire.errors import Failed, InvalidInput, Refused
from pqbench_wire.shared.onnx_walk import inner_graphs

COMPUTE = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class Graph:
    """An editable copy of an ONNX model (its bytes); `finish` returns the new bytes."""

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
        """Names of the FP32 inputs, intermediate tensors and outputs, found by shape inference."""
        inferred = onnx.shape_inference.infer_shapes(self.model).graph
        values = (*inferred.input, *inferred.value_info, *inferred.output)
        return {v.name for v in values if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}

    def float_nodes(self) -> list[onnx.NodeProto]:
        """The nodes whose first output is an FP32 tensor."""
        floats = self.floats()
        return [n for n in self.nodes if n.output[0] in floats]

    def compute_nodes(self) -> list[onnx.NodeProto]:
        """Convolutions and matrix products with a constant weight that can be quantized, in order."""
        return [n for n in self.nodes if n.op_type in COMPUTE and not self.hindrance(n)]

    def notes(self) -> dict[str, dict[str, str]]:
        """Notes for the result: the layers that cannot be quantized as `left_fp32`; empty if there are none."""
        left = self.left_out()
        return {"left_fp32": left} if left else {}

    def left_out(self) -> dict[str, str]:
        """Convolutions and matrix products with weights that cannot be quantized: name -> reason."""
        products = [
            n for n in self.nodes if n.op_type in COMPUTE and (n.op_type != "MatMul" or self.is_constant(n.input[1]))
        ]
        return {n.name: reason for n in products if (reason := self.hindrance(n))}

    def hindrance(self, node: onnx.NodeProto) -> str:
        """Why a convolution or matrix product cannot be quantized; empty if it can."""
        if not self.is_constant(node.input[1]):
            return "its weight is not a constant"
        weight = self._constants[node.input[1]]
        if weight.data_type != onnx.TensorProto.FLOAT or not all(weight.dims):
            return "its weight is not FP32, or empty"
        if node.op_type == "Gemm" and attribute(node, "transA"):
            return "its input is transposed"
        if node.op_type == "ConvTranspose" and attribute(node, "group", 1) > 1:
            return "its output channels are in groups"
        if node.op_type == "MatMul" and len(weight.dims) != 2:
            return "its weight is not a matrix"
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias and not self.is_constant(bias):
            return "its bias is not a constant"
        if bias and len(self._constants[bias].dims) != 1:
            return "its bias is not a vector"
        return ""

    def matching(self, patterns: Iterable[str]) -> list[str]:
        """Names of the compute nodes that match shell-style patterns. Raises InvalidInput if one matches nothing."""
        names = [n.name for n in self.compute_nodes()]
        chosen = []
        for pattern in patterns:
            found = fnmatch.filter(names, pattern)
            if not found:
                example = f"node names look like {names[0]!r}" if names else "this model has no compute nodes"
                raise InvalidInput(f"keep: no node name matches {pattern!r}; {example}")
            chosen += found
        return chosen

    def producers(self) -> dict[str, onnx.NodeProto]:
        """The node that writes each tensor, by the tensor's name."""
        return {name: node for node in self.model.graph.node for name in node.output}

    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """The nodes that read each tensor, by the tensor's name; a subgraph's reads count for its node."""
        found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.model.graph.node:
            for name in reads(node):
                found[name].append(node)
        return found

    def isolate(self) -> list[str]:
        """Let subgraphs read copies of outside tensors, so that rewriting the main graph does not affect subgraphs.

        Returns the names of the nodes that copy, and of the nodes with subgraphs.
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
        """Let every node, also in subgraphs, read other tensors; `names` maps old tensor names to new ones."""
        for node in self.model.graph.node:
            _rename_reads(node, names)

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is stored in the model."""
        return name in self._constants

    def array(self, name: str) -> np.ndarray:
        """A constant's values."""
        return numpy_helper.to_array(self._constants[name])

    def add_constant(self, name: str, array: np.ndarray) -> str:
        """Store a constant under `name`, made unique if it is taken; returns the final name."""
        return self.add_tensor(numpy_helper.from_array(np.ascontiguousarray(array), name))

    def add_tensor(self, tensor: onnx.TensorProto) -> str:
        """Store a constant; returns its name, made unique."""
        while tensor.name in self._constants:
            tensor.name = f"{tensor.name.partition('#')[0]}#{next(self._numbers)}"
        self.model.graph.initializer.append(tensor)
        self._constants[tensor.name] = tensor
        return tensor.name

    def replace_constant(self, node: onnx.NodeProto, index: int, array: np.ndarray) -> None:
        """Give one node a new constant as input `index`; other nodes keep the old one."""
        node.input[index] = self.add_constant(node.input[index], array)

    def finish(self, opset: int | None = None) -> bytes:
        """The model's bytes, without unused constants and with nodes in topological order; `opset` is a lower bound.

        Raises Refused if an opset is required and the model imports none of ONNX's own.
        """
        graph = self.model.graph
        used = {name for node in graph.node for name in reads(node)} | {o.name for o in graph.output}
        kept = [i for i in graph.initializer if i.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        _sort(graph)
        del graph.value_info[:]  # the recorded types may have changed
        if opset is not None:
            own = next((one for one in self.model.opset_import if one.domain in ("", "ai.onnx")), None)
            if own is None:
                raise Refused("this model uses no operator of the default ONNX domain")
            own.version = max(own.version, opset)
        return self.model.SerializeToString(deterministic=True)


def reads(node: onnx.NodeProto) -> list[str]:
    """The tensors that a node reads: its inputs, and what its subgraphs read from outside."""
    return list(dict.fromkeys([*(name for name in node.input if name), *read_inside(node)]))


def read_inside(node: onnx.NodeProto) -> list[str]:
    """The outside tensors that the subgraphs of a node read or output."""
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
            raise Failed(f"tensor {missing} is read, but no node writes it")
        rest, so_far = [], known
        for node in waiting:  # a single pass keeps the order of nodes that are sorted already
            if all(name in so_far for name in reads(node)):
                ordered.append(node)
                so_far.update(node.output)
            else:
                rest.append(node)
        waiting = rest
    del graph.node[:]
    graph.node.extend(ordered)
