"""Form A follows NVIDIA's rules."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from torch import nn

from pqbench.common.v1.common_pb2 import Form
from pqbench_compressor import export
from pqbench_compressor.graph import Graph
from pqbench_compressor.plugins import QUANTIZERS, Context, Source
from pqbench_compressor.quantizers import _half, _signed


def test_the_signed_form_follows_the_rules_of_tensorrt(model: bytes, context: Context) -> None:
    plugin = QUANTIZERS.load("int8-static")
    data = plugin.quantize(Source(onnx=lambda: model, module=None), plugin.Config(images=32), context,
                           (Form.FORM_QDQ_SIGNED,))[Form.FORM_QDQ_SIGNED]  # fmt: skip
    graph = Graph(data)
    producers, consumers = graph.producers(), graph.consumers()
    quantized = [n for n in graph.nodes if n.op_type == "QuantizeLinear"]
    assert all(len(n.input) == 3 and (graph.array(n.input[1]) > 0).all() for n in quantized)
    for node in graph.nodes:
        if node.op_type in ("Conv", "Gemm"):
            stem = producers.get(node.input[0]) is None and node.op_type == "Conv" and node.input[0] == "input"
            assert stem or producers[node.input[0]].op_type == "DequantizeLinear"
            assert not any(reader.op_type == "QuantizeLinear" for reader in consumers[node.output[0]]), "no output"
            assert graph.is_constant(node.input[2]) and graph.array(node.input[2]).dtype == np.float32, "FP32 bias"
    add = next(n for n in graph.nodes if n.op_type == "Add")
    kinds = sorted(producers[name].op_type for name in add.input)
    assert kinds == ["Conv", "DequantizeLinear"], "of an addition the skip alone is quantized"
    typed = onnx.load_from_string(_half.typed(data))
    assert {i.data_type for i in typed.graph.initializer if i.name.endswith("_scale")} == {onnx.TensorProto.FLOAT16}


class WithoutBias(nn.Module):
    """A transformer's residual block of matrix products without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(192, 32, bias=False), nn.Linear(32, 192, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        return x + self.second(torch.relu(self.first(x)))


def test_only_additions_to_convolutions_are_residual_in_the_signed_form(context: Context) -> None:
    plugin = QUANTIZERS.load("int8-static")
    plain = export.to_onnx(WithoutBias().eval(), context.example)
    made = plugin.quantize(
        Source(onnx=lambda: plain, module=None), plugin.Config(images=32), context, (Form.FORM_QDQ_SIGNED,)
    )
    graph = Graph(made[Form.FORM_QDQ_SIGNED])
    add = next(n for n in graph.nodes if n.op_type == "Add")
    assert "DequantizeLinear" not in {graph.producers()[name].op_type for name in add.input}


def test_fp8_leaves_convolutions_with_few_channels_in_a_group_alone(context: Context) -> None:
    layers = {"whole": nn.Conv2d(32, 32, 3), "grouped": nn.Conv2d(32, 32, 3, groups=4), "large": nn.Conv2d(32, 16, 7)}
    grouped = nn.Conv2d(32, 32, 1, groups=2)  # 16 channels in a group
    module = nn.Sequential(nn.Conv2d(3, 32, 1), layers["whole"], layers["grouped"], grouped, nn.Flatten())
    graph = Graph(export.to_onnx(module.eval(), context.example))
    assert [node.name for node in _signed.worthwhile(graph, fp8=True)] == ["1", "3"]
    assert [node.name for node in _signed.worthwhile(graph)] == ["1", "2", "3"], (
        "INT8 counts the channels of all groups"
    )
    wide = nn.Sequential(nn.Conv2d(3, 32, 1), layers["large"], nn.Flatten())
    assert _signed.worthwhile(Graph(export.to_onnx(wide.eval(), context.example)), fp8=True) == []
