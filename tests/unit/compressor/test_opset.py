"""ONNX in an older opset computes the same, or is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from pqbench_compressor import export
from pqbench_compressor.opset import WEAKLY_TYPED, lowered
from pqbench_wire.errors import Refused


class Newer(nn.Module):
    """What changed between opsets 17 and 20: Gelu, reductions with axes as an input, Split."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = torch.chunk(x, 2, dim=1)
        halves = nn.functional.gelu(first) + nn.functional.gelu(second, approximate="tanh")
        return torch.cat([halves.mean((2, 3)), halves.amax((2, 3))], 1)


def test_newer_operators_are_written_out() -> None:
    images = np.random.default_rng(0).normal(size=(2, 4, 5, 5)).astype(np.float32)
    newer = export.to_onnx(Newer(), images)
    assert {"Gelu", "ReduceMean", "ReduceMax", "Split"} <= {n.op_type for n in onnx.load_from_string(newer).graph.node}
    older = lowered(newer)
    model = onnx.load_from_string(older)
    assert model.opset_import[0].version == WEAKLY_TYPED and model.ir_version == 8
    assert export.sqnr(export.run_onnx(newer, images), export.run_onnx(older, images)) > 100
    assert lowered(older) == older


def test_what_cannot_be_written_is_refused() -> None:
    def port(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4])

    graph = helper.make_graph([helper.make_node("Mish", ["x"], ["y"], name="mish")], "g", [port("x")], [port("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    with pytest.raises(Refused, match="cannot be written in ONNX opset 17: No Op registered for Mish"):
        lowered(model.SerializeToString())
