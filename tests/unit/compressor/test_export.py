"""The exported ONNX and .pt2: dynamic, named, repeatable, verified."""

from __future__ import annotations

import copy
import io
import zipfile

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_compressor import export
from pqbench_compressor.graph import Graph
from pqbench_compressor.plugins import Context
from pqbench_wire.errors import VerificationFailed

from .examples import network


def test_the_onnx_export_is_dynamic_named_and_free_of_its_machine(context: Context) -> None:
    data = export.to_onnx(network(), context.example)
    assert data == export.to_onnx(network(), context.example)
    model = onnx.load_from_string(data)
    assert [i.name for i in model.graph.input] == ["input"] and [o.name for o in model.graph.output] == ["output"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert b"site-packages" not in data and b".py" not in data
    inputs = np.repeat(context.example, 3, axis=0)
    np.testing.assert_allclose(export.run_onnx(data, inputs), export.run_module(network(), inputs), atol=1e-4)


def test_the_pt2_export_is_repeatable_and_free_of_its_machine(context: Context) -> None:
    data = export.to_pt2(network(), context.example)
    assert data == export.to_pt2(network(), context.example)
    parts = zipfile.ZipFile(io.BytesIO(data))
    assert not any(b"site-packages" in parts.read(name) for name in parts.namelist())


def test_an_export_that_computes_something_else_fails_with_figures(context: Context) -> None:
    module, other = network(), copy.deepcopy(network())
    with torch.no_grad():
        next(other.parameters()).mul_(1.5)
    data = export.to_onnx(other, context.example)
    reference = export.run_module(module, context.example)
    with pytest.raises(VerificationFailed, match=r"signal-to-noise [\d.-]+ dB, at least 60 dB.*on 2 images"):
        export.verify(data, Form.FORM_ONNX, Precision.PRECISION_FP32, context.example, reference)
    with pytest.raises(VerificationFailed, match="FORM_ONNX PRECISION_FP32"):
        export.verify(b"no model", Form.FORM_ONNX, Precision.PRECISION_FP32, context.example, reference)


# The least dB of each precision, as it is told to users.
BOUNDS = {"FP32": 60, "FP16": 30, "BF16": 15, "INT8": 3, "INT8_DYNAMIC": 3, "FP8": 3, "INT4": 0}


@pytest.mark.parametrize(("name", "least"), BOUNDS.items())
def test_an_artifact_is_held_to_the_bound_of_its_precision(name: str, least: float) -> None:
    """An artifact that gives what it takes, against a reference that lies just above and just under the bound."""
    values = [onnx.helper.make_tensor_value_info(one, onnx.TensorProto.FLOAT, ["n", 1, 4, 4]) for one in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    artifact = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    inputs = np.random.default_rng(0).standard_normal((4, 1, 4, 4)).astype(np.float32)
    outputs, precision = inputs.reshape(4, 16).astype(np.float64), Precision.Value(f"PRECISION_{name}")

    def verified(decibels: float, form: Form = Form.FORM_ONNX) -> float:
        reference = outputs / (1 + 10 ** (-decibels / 20))  # so much smaller that the noise is so far below the signal
        return export.verify(artifact.SerializeToString(), form, precision, inputs, reference).sqnr_db

    assert verified(least + 0.1) == pytest.approx(least + 0.1, abs=1e-3)
    with pytest.raises(VerificationFailed, match=f"signal-to-noise {least - 0.1:.1f} dB, at least {least} dB wanted"):
        verified(least - 0.1)
    assert verified(-20, Form.FORM_QDQ_TOOL) == pytest.approx(-20, abs=1e-3), "is a finding"


def test_nodes_are_named_after_their_modules() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5)).eval()
    names = {
        node.op_type: node.name for node in Graph(export.to_onnx(module, np.zeros((2, 3, 8, 8), np.float32))).nodes
    }
    assert names == {"Conv": "0", "Relu": "2", "Reshape": "3", "Gemm": "4"}


class SameNames(nn.Module):
    """Functions, whose nodes are of no module, beside a module with the name that a number would make of theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.Relu_1 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.Relu_1(torch.relu(torch.relu(x) - 1) - 1).flatten(1)


def test_names_of_nodes_are_unique() -> None:
    names = [node.name for node in Graph(export.to_onnx(SameNames(), np.zeros((2, 3, 8, 8), np.float32))).nodes]
    assert len(set(names)) == len(names) and {"Relu_1", "/Relu", "/Relu_1"} <= set(names)
