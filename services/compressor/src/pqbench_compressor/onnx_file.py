"""A user's ONNX file in the shape that exporters of today give it."""

from __future__ import annotations

import onnx
from onnx import version_converter

from pqbench_wire.errors import InvalidInput
from pqbench_wire.jobs import first_line

LEAST_OPSET, LEAST_IR = 13, 8  # per-channel Q/DQ; constants that are no inputs
OPSET = 20


def normalised(name: str, data: bytes) -> bytes:
    """The model with constants that are no inputs, nodes of different names, and opset 13 at least.

    Raises InvalidInput for what is no valid model, or cannot be converted.
    """
    try:
        model = onnx.load_from_string(data)
        onnx.checker.check_model(model)
        opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), OPSET)
        if opset < LEAST_OPSET:
            model = version_converter.convert_version(model, OPSET)
    except Exception as error:  # onnx's and protobuf's own share no root
        raise InvalidInput(f"{name}: not a valid ONNX model: {first_line(error)}") from error
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, LEAST_IR)
    _name_nodes(model.graph)
    return model.SerializeToString(deterministic=True)


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Every node a name of its own: layers are told apart by it."""
    taken: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{index}"
        taken.add(node.name)
