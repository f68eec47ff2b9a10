"""BF16: what NVIDIA's parser takes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_compressor import export
from pqbench_compressor.plugins import QUANTIZERS, Context, Source
from tests.bindings import parser_errors


def of_activation(activation: nn.Module, context: Context) -> tuple[nn.Module, bytes]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), activation, nn.Flatten(), nn.Linear(288, 5)).eval()
    plain, plugin = export.to_onnx(module, context.example), QUANTIZERS.load("bf16")
    source = Source(onnx=lambda: plain, module=None)
    return module, plugin.quantize(source, plugin.Config(), context, (Form.FORM_ONNX,))[Form.FORM_ONNX]


@pytest.mark.parametrize("activation", [nn.Hardswish(), nn.Mish(), nn.CELU()], ids=["HardSwish", "Mish", "Celu"])
def test_activations_without_a_bf16_kernel_are_written_in_others(activation: nn.Module, context: Context) -> None:
    module, made = of_activation(activation, context)
    inputs = np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)
    with torch.no_grad():
        reference = module(torch.from_numpy(inputs)).numpy()
    found = export.verify(made, Form.FORM_ONNX, Precision.PRECISION_BF16, inputs, reference)
    assert found.sqnr_db > 30
    assert parser_errors(made) == []


def test_what_a_node_fills_is_bf16_too() -> None:
    value = numpy_helper.from_array(np.array([0.5], np.float32))
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["filled"], value=value),
        helper.make_node("Mul", ["x", "filled"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:])
    plain = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()
    plugin = QUANTIZERS.load("bf16")
    context = Context(seed=0, report=lambda *_: None, classes=4, images=np.zeros((2, 4), np.float32))
    source = Source(onnx=lambda: plain, module=None)
    made = plugin.quantize(source, plugin.Config(), context, (Form.FORM_ONNX,))[Form.FORM_ONNX]
    onnx.checker.check_model(onnx.load_from_string(made), full_check=True)
    assert parser_errors(made) == []
