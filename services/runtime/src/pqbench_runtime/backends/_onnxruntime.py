"""What ONNX Runtime's backends share: opening sessions, reading the layers of an optimised graph, the profiler."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from pqbench_runtime.backend import Layer, LayerTime, Profile, Shape
from pqbench_wire.errors import Failed, Refused, first_line

COMPUTE = {
    "Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "ConvInteger", "QLinearConv", "NhwcConv",
    "Gemm", "FusedGemm", "QGemm", "MatMul", "FusedMatMul", "TransposeMatMul", "MatMulInteger", "QLinearMatMul",
    "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits",
}  # fmt: skip
INTEGER = {
    "ConvInteger",
    "QLinearConv",
    "QGemm",
    "MatMulInteger",
    "QLinearMatMul",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
}
TYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "FP32",
    onnx.TensorProto.FLOAT16: "FP16",
    onnx.TensorProto.BFLOAT16: "BF16",
    onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.UINT8: "INT8",
}
PROFILED = {"float": "FP32", "float16": "FP16", "bfloat16": "BF16", "int8": "INT8", "uint8": "INT8"}
KERNEL = "_kernel_time"  # the suffix that the profiler appends to a node's name


def create(
    model: Path | bytes, settings: onnxruntime.SessionOptions, providers: Sequence[Any]
) -> onnxruntime.InferenceSession:
    """A session. Raises Refused for operators that are not implemented, else Failed, with the library's reason."""
    try:
        return onnxruntime.InferenceSession(model, settings, providers=list(providers), enable_fallback=0)
    except Exception as error:
        # ONNX Runtime's exceptions have no other base class in common.
        kind = Refused if "NOT_IMPLEMENTED" in str(error) else Failed
        raise kind(f"ONNX Runtime cannot build this model: {first_line(error)}") from error


def fix_dimensions(settings: onnxruntime.SessionOptions, artifact: Path, shape: Shape) -> None:
    """Have a session fix the inputs' symbolic axes to the sizes of `shape`; axes without a name are left out."""
    graph = onnx.load(str(artifact), load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = {one.name: one.type.tensor_type.shape.dim for one in graph.input if one.name not in constants}
    shapes = shape.inputs(list(inputs))
    pairs = [pair for name, axes in inputs.items() for pair in zip(axes, shapes[name], strict=False)]
    for name, size in {axis.dim_param: size for axis, size in pairs if axis.dim_param}.items():
        settings.add_free_dimension_override_by_name(name, size)


def layers_of(model: onnx.ModelProto) -> list[Layer]:
    """The nodes of an optimised graph, with the precisions that they execute in."""
    weights = {i.name: TYPES.get(i.data_type, "other") for i in model.graph.initializer}
    return [
        Layer(name=node.name, type=node.op_type, precision=_precision(node, weights), compute=node.op_type in COMPUTE)
        for node in model.graph.node
    ]


def _precision(node: onnx.NodeProto, weights: dict[str, str]) -> str:
    """By the operator or the type of the weights; FP32 for the rest, as the optimised graph has no other types."""
    typed = [weights[name] for name in node.input if name in weights]
    return _by_operator(node.op_type) or (typed[0] if typed else "FP32")


def _by_operator(kind: str) -> str:
    if kind in INTEGER or kind.startswith("QLinear"):
        return "INT8"
    return "INT4" if kind == "MatMulNBits" else ""


def profile_of(session: onnxruntime.InferenceSession, calls: int, launches: bool = False) -> Profile:
    """End a session's profiling and return the layers' mean times over its last `calls`.

    `launches`: the calls only queued their work, so the times are those of the host to launch it.
    """
    events = json.loads(Path(session.end_profiling()).read_text())
    begin = [event["ts"] for event in events if event["name"] == "model_run"][-calls]
    nodes = [one for one in events if one["cat"] == "Node" and one["name"].endswith(KERNEL) and one["ts"] >= begin]
    first: dict[str, dict[str, Any]] = {}
    seconds: dict[str, float] = {}
    for event in nodes:
        key = event["args"]["node_index"]
        first.setdefault(key, event)
        seconds[key] = seconds.get(key, 0.0) + event["dur"] / 1e6
    layers = [_layer_time(event, seconds[key] / calls) for key, event in first.items()]
    return Profile(tool="ONNX Runtime's profiler", calls=calls, layers=layers, launches=launches)


def _layer_time(event: dict[str, Any], seconds: float) -> LayerTime:
    arguments = event["args"]
    kind = arguments["op_name"]
    types = [name for tensor in arguments.get("input_type_shape", ()) for name in tensor]
    by_input = next((PROFILED[name] for name in types if name in PROFILED), "")
    precision = _by_operator(kind) or by_input
    return LayerTime(
        name=event["name"].removesuffix(KERNEL),
        type=kind,
        precision=precision,
        compute=kind in COMPUTE,
        seconds=seconds,
        provider=arguments["provider"].removesuffix("ExecutionProvider"),
    )
