"""Rewrites ONNX models in an older opset: TensorRT 8.6 reads up to opset 17, the exporter writes 20."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pqbench_compressor.graph import attribute
from pqbench_wire.errors import Refused, first_line

WEAKLY_TYPED = 17  # the newest opset that TensorRT 8.6 reads
IR_VERSION = 8  # that of opset 17
REDUCTIONS = ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
              "ReduceProd", "ReduceSumSquare")  # fmt: skip


def lowered(model: bytes) -> bytes:
    """An equivalent model in opset 17; a model that is not newer is returned unchanged.

    Operators that changed since then are rewritten, and ONNX's checker verifies that nothing else is
    newer. ONNX's version converter is not used: it lacks adapters for operators that only gained types.
    Raises Refused if the model cannot be written in opset 17.
    """
    proto = onnx.load_from_string(model)
    own = next((one for one in proto.opset_import if one.domain in ("", "ai.onnx")), None)
    if own is None or own.version <= WEAKLY_TYPED:
        return model
    _write_out(proto.graph)
    own.version, proto.ir_version = WEAKLY_TYPED, min(proto.ir_version, IR_VERSION)
    del proto.graph.value_info[:]
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise Refused(f"this model cannot be written in ONNX opset {WEAKLY_TYPED}: {first_line(error)}") from error
    return proto.SerializeToString(deterministic=True)


def _write_out(graph: onnx.GraphProto) -> None:
    constants = {one.name: one for one in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Gelu":
            nodes += _gelu(graph, node)
            continue
        if node.op_type in REDUCTIONS:
            _axes_as_attribute(node, constants)
        if node.op_type == "Split":
            _drop(node, "num_outputs")
        nodes.append(node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def _axes_as_attribute(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> None:
    """Turn constant axes of a reduction, an input since opset 18, into an attribute; the checker rejects other axes."""
    if not attribute(node, "noop_with_empty_axes"):
        _drop(node, "noop_with_empty_axes")
    if len(node.input) > 1 and node.input[1] in constants:
        axes = numpy_helper.to_array(constants[node.input[1]]).ravel().tolist()
        del node.input[1:]
        node.attribute.append(helper.make_attribute("axes", axes))


def _drop(node: onnx.NodeProto, name: str) -> None:
    for found in [one for one in node.attribute if one.name == name]:
        node.attribute.remove(found)


def _gelu(graph: onnx.GraphProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Nodes that compute GELU by its definition, 0.5 x (1 + erf(x / sqrt 2)), or by its tanh approximation."""
    x = node.input[0]
    nodes: list[onnx.NodeProto] = []

    def constant(value: float) -> str:
        name = f"{node.name or node.output[0]}_{value:.4f}"
        graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def apply(kind: str, *inputs: str, output: str = "") -> str:
        output = output or f"{node.name or node.output[0]}_gelu_{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [output], name=f"{output}_node"))
        return output

    if any(one.name == "approximate" and one.s == b"tanh" for one in node.attribute):
        cubed = apply("Mul", apply("Mul", x, apply("Mul", x, x)), constant(0.044715))
        inner = apply("Tanh", apply("Mul", apply("Add", x, cubed), constant(math.sqrt(2 / math.pi))))
    else:
        inner = apply("Erf", apply("Mul", x, constant(math.sqrt(0.5))))
    apply("Mul", apply("Mul", x, constant(0.5)), apply("Add", inner, constant(1.0)), output=node.output[0])
    return nodes
