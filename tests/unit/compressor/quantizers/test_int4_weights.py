"""INT4 weights in blocks."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from pqbench.common.v1.common_pb2 import Form
from pqbench_compressor import export
from pqbench_compressor.plugins import QUANTIZERS, Context, Source
from pqbench_compressor.quantizers import _gptq


def test_int4_blocks_are_stored_in_four_bits(context: Context, model: bytes) -> None:
    plugin = QUANTIZERS.load("int4-weights")
    data = plugin.quantize(Source(onnx=lambda: model, module=None), plugin.Config(block=32), context, plugin.FORMS[:1])
    made = onnx.load_from_string(data[Form.FORM_QDQ_SIGNED])
    stored = next(i for i in made.graph.initializer if i.data_type == onnx.TensorProto.INT4)
    values = numpy_helper.to_array(stored).astype(np.int8)
    assert (
        made.opset_import[0].version == 21 and values.min() >= -8 and values.max() <= 7 and len(np.unique(values)) > 8
    )


def test_blocks_are_of_sizes_that_tensorrt_documents(context: Context) -> None:
    plugin = QUANTIZERS.load("int4-weights")
    layers = nn.Sequential(
        nn.Flatten(), nn.Linear(192, 128), nn.ReLU(), nn.Linear(128, 100), nn.ReLU(), nn.Linear(100, 8)
    )
    example = np.zeros((2, 3, 8, 8), np.float32)
    source = Source(onnx=lambda: export.to_onnx(layers.eval(), example), module=None)
    data = plugin.quantize(source, plugin.Config(), context, (Form.FORM_QDQ_SIGNED,))[Form.FORM_QDQ_SIGNED]
    nodes = [node for node in onnx.load_from_string(data).graph.node if node.op_type == "DequantizeLinear"]
    assert [one.i for node in nodes for one in node.attribute if one.name == "block_size"] == [64, 128]
    assert not plugin.withheld(plugin.Config())[0] and not plugin.withheld(plugin.Config(block=64))[0]
    assert plugin.withheld(plugin.Config(block=32))[0] == (Form.FORM_QDQ_TYPED,)


@pytest.mark.parametrize("split", [False, True])
def test_gptq_keeps_more_of_a_products_output_than_rounding_to_nearest(
    split: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if split:  # a layer with more inputs than are rounded together
        monkeypatch.setattr(_gptq, "LARGEST", 64)
    torch.manual_seed(0)
    weight, inputs = torch.randn(24, 128), torch.randn(2000, 8) @ torch.randn(8, 128) + 0.1 * torch.randn(2000, 128)
    weight[:, ::4] = 0
    moments = [piece.T @ piece / 2000 for piece in inputs.split(64 if split else 128, 1)]
    values, scales = _gptq.rounded(weight, moments, 32, 1e-9)
    nearest, own = (torch.from_numpy(one) for one in QUANTIZERS.load("int4-weights")._nearest(weight.numpy(), 32))
    errors = [
        ((q * s.repeat_interleave(32, 1) - weight) @ inputs.T).square().mean()
        for q, s in ((values, scales), (nearest, own))
    ]
    assert errors[0] < errors[1] / 4, "6 dB"
    assert values.dtype == torch.int8 and values.min() >= -8 and values.max() <= 7
    assert not values[:, ::4].any() and scales.shape == (24, 4)


def test_gptq_sees_training_images_and_rounding_to_nearest_needs_none(context: Context, model: bytes) -> None:
    plugin = QUANTIZERS.load("int4-weights")
    assert plugin.needs(plugin.Config()).training and not plugin.needs(plugin.Config(rounding="nearest")).training
    found = {}
    for rounding in ("gptq", "nearest"):
        source = Source(onnx=lambda: model, module=None)
        config = plugin.Config(block=32, rounding=rounding)
        found[rounding] = plugin.quantize(source, config, context, plugin.FORMS[:1])[Form.FORM_QDQ_SIGNED]
        assert ("calibration_images" in source.notes) == (rounding == "gptq")
    inputs = context.training.sample(64, 1)
    reference = export.run_fast(model, inputs)
    gained = [export.sqnr(reference, export.run_fast(found[one], inputs)) for one in ("gptq", "nearest")]
    assert gained[0] > gained[1]
