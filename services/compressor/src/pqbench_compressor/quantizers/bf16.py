"""BF16 weights and arithmetic with FP32 inputs and outputs: FP32's range, 8 bits of precision (arXiv 1905.12322)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_compressor.export import to_pt2
from pqbench_compressor.graph import Graph
from pqbench_compressor.opset import lowered
from pqbench_compressor.plugins import Context, Needs, Source
from pqbench_compressor.quantizers._narrow import narrowed

REQUIRES = ("torch", "onnx")
PRECISION = Precision.PRECISION_BF16
FORMS = (Form.FORM_ONNX, Form.FORM_PT2, Form.FORM_ONNX_UNTYPED)
OPSET = 22  # the first in which convolutions take BF16
# TensorRT's parser (TensorRT for RTX 1.4 and 1.7 say so) takes these in FP32 and FP16, but not in BF16. The first are
# an input times a gate: operator -> the operators of the gate, each of the one before.
GATES: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "HardSwish": (("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),),
    "Mish": (("Softplus", {}), ("Tanh", {})),
}
FP32_OPERATORS = ("Celu",)
FP32_ONLY = {"Resize": (1, 2), "Upsample": (1,)}  # inputs that ONNX does not allow to be BF16


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to configure: BF16 has FP32's range, so no layer overflows that does not overflow in FP32."""


def needs(config: Config) -> Needs:
    return Needs()


def quantize(source: Source, config: Config, context: Context, forms: tuple[Form, ...]) -> dict[Form, bytes]:
    artifacts = {}
    if Form.FORM_ONNX in forms:
        artifacts[Form.FORM_ONNX] = _typed(source.onnx())
    if Form.FORM_PT2 in forms:
        module, _ = narrowed(source.module, torch.bfloat16, context.images, math.inf)
        artifacts[Form.FORM_PT2] = to_pt2(module, context.example)
    if Form.FORM_ONNX_UNTYPED in forms:
        artifacts[Form.FORM_ONNX_UNTYPED] = lowered(source.onnx())
    return artifacts


def _typed(model: bytes) -> bytes:
    """The model with every FP32 tensor in BF16, except its inputs and outputs, its subgraphs and FP32_OPERATORS."""
    graph = Graph(model)
    _decompose(graph)
    kept = set(graph.isolate()) | {node.name for node in graph.nodes if node.op_type in FP32_OPERATORS}
    floats = graph.floats()
    fixed = {node.input[i] for node in graph.nodes for i in FP32_ONLY.get(node.op_type, ()) if i < len(node.input)}
    for tensor in graph.model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in fixed:
            tensor.CopyFrom(_bf16(tensor.name, graph.array(tensor.name)))
    for node in graph.nodes:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.BFLOAT16
        if node.op_type == "ConstantOfShape":
            _fill_with_bf16(node)
    inputs = {v.name for v in graph.model.graph.input if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    outputs = {v.name for v in graph.model.graph.output if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    graph.rename_reads({name: f"{name}#bf16" for name in inputs | outputs})
    for node in graph.nodes:
        node.output[:] = [f"{name}#bf16" if name in outputs else name for name in node.output]
    _keep(graph, kept, floats)
    new = [helper.make_node("Cast", [n], [f"{n}#bf16"], to=TensorProto.BFLOAT16) for n in sorted(inputs)]
    new += [helper.make_node("Cast", [f"{n}#bf16"], [n], to=TensorProto.FLOAT) for n in sorted(outputs)]
    graph.model.graph.node.extend(new)
    return graph.finish(OPSET)


def _fill_with_bf16(node: onnx.NodeProto) -> None:
    """Let a ConstantOfShape that fills with FP32, as without an attribute, fill with the same value in BF16."""
    if not node.attribute:
        node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1, np.float32))))
    value = node.attribute[0].t
    if value.data_type == TensorProto.FLOAT:
        value.CopyFrom(_bf16(value.name, numpy_helper.to_array(value)))


def _decompose(graph: Graph) -> None:
    """Write activations for which TensorRT has no BF16 kernel as the operators that they are defined by."""
    for node in [one for one in graph.nodes if one.op_type in GATES]:
        (source,), (output,), gates = node.input, node.output, GATES[node.op_type]
        gate = source
        for kind, attributes in gates:
            before, gate = gate, f"{output}#{kind}"
            made = helper.make_node(kind, [before], [gate], name=f"{node.name}/{kind}", **attributes)
            graph.model.graph.node.append(made)
        node.CopyFrom(helper.make_node("Mul", [source, gate], [output], name=node.name))


def _keep(graph: Graph, names: set[str], floats: set[str]) -> None:
    """Keep these nodes and their subgraphs in FP32: cast what they read to FP32, and what they output to BF16."""
    for node in [one for one in graph.nodes if one.name in names]:
        if node.op_type == "Identity":
            if node.output[0] in floats:
                node.op_type = "Cast"
                node.attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
            continue
        for index, name in enumerate(node.input):
            if name.removesuffix("#bf16") in floats:
                wide = f"{node.name}#wide{index}"
                graph.model.graph.node.append(helper.make_node("Cast", [name], [wide], to=TensorProto.FLOAT))
                node.input[index] = wide
        for index, name in enumerate(node.output):
            if name.removesuffix("#bf16") in floats:
                node.output[index] = f"{name}#fp32"
                cast = helper.make_node("Cast", [f"{name}#fp32"], [name], to=TensorProto.BFLOAT16)
                graph.model.graph.node.append(cast)


def _bf16(name: str, array: np.ndarray) -> TensorProto:
    values = torch.from_numpy(np.array(array, np.float32).reshape(-1)).to(torch.bfloat16)
    return helper.make_tensor(name, TensorProto.BFLOAT16, array.shape, values.view(torch.uint8).numpy().tobytes(), True)
