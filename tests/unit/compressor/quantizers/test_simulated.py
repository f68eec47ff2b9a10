"""Simulated bits."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from pqbench.common.v1.common_pb2 import Form
from pqbench_compressor import fake_quant
from pqbench_compressor.plugins import QUANTIZERS, Context, Source
from pqbench_compressor.quantizers import _adaround
from pqbench_wire.errors import Refused

from ..examples import CONTEXT, Kinds, build


def test_average_bits_are_what_was_asked_for_with_the_edges_at_eight(context: Context) -> None:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 128)]
    module = nn.Sequential(*layers, nn.ReLU(), nn.Linear(128, 10)).eval()
    plugin, source = QUANTIZERS.load("simulated"), Source(onnx=lambda: b"", module=module)
    plugin.quantize(source, plugin.Config(images=16, average=5.0), context, (Form.FORM_ONNX,))
    bits = {name: weights for name, (weights, _) in source.notes["bits"].items()}
    sizes = {name: module.get_submodule(name).weight.numel() for name in bits}
    mean = sum(bits[name] * size for name, size in sizes.items()) / sum(sizes.values())
    assert (bits["1"], bits["7"]) == (8, 8) and 4 <= mean <= 5
    with pytest.raises(Refused, match="with the first and last layer at 8 bits, average must be at least 2.6"):
        plugin.quantize(source, plugin.Config(images=16, average=2.0), context, (Form.FORM_ONNX,))


def test_bits_are_allocated_over_layers_of_every_kind_and_shared_ones_have_the_same() -> None:
    plugin = QUANTIZERS.load("simulated")
    source = Source(onnx=lambda: b"", module=Kinds().eval())
    plugin.quantize(source, plugin.Config(average=5.0, images=2), CONTEXT, (Form.FORM_ONNX,))
    bits = {name: weights for name, (weights, _) in source.notes["bits"].items()}
    assert set(bits) == {"c3", "c1", "a", "b", "f"} and bits["a"] == bits["b"] and bits["c3"] == bits["f"] == 8


@pytest.mark.parametrize("per_tensor", [False, True])
def test_learned_rounding_changes_outputs_less_and_keeps_its_grid(per_tensor: bool) -> None:
    torch.manual_seed(0)
    weight, mix = torch.randn(8, 32), torch.randn(32, 32)
    inputs = torch.randn(500, 32) @ mix
    moments = inputs.T @ inputs / len(inputs)
    (learned,) = _adaround.rounded(weight[None], moments[None], 3, 1000, per_tensor)
    nearest = fake_quant.RoundedWeight(3, per_tensor).eval()
    again = nearest(learned)
    torch.testing.assert_close(again, learned)

    def error(other: torch.Tensor) -> float:
        return float((inputs @ (other - weight).T).square().mean())

    assert error(learned) < 0.5 * error(nearest(weight))


def test_scales_for_whole_tensors_fold_batch_norms_first() -> None:
    """Rounded on their own, weights before a batch norm would look better than what a runtime computes with."""
    module, context = build("cifar", "resnet20")
    plugin, source = QUANTIZERS.load("simulated"), Source(onnx=lambda: b"", module=module)
    config = plugin.Config(images=4, weights=6, activations=32, scales="tensor", edges=False)
    found = plugin.quantize(source, config, context, (Form.FORM_ONNX,))
    weights = [
        onnx.numpy_helper.to_array(one) for one in onnx.load_from_string(found[Form.FORM_ONNX]).graph.initializer
    ]
    kernels = [weight for weight in weights if weight.ndim == 4]
    assert len(kernels) == 19 and all(len(np.unique(abs(weight).round(7))) <= 32 for weight in kernels)
    for change, said in (({"epochs": 1}, "tensor or epochs"), ({"average": 5.0}, "tensor or average")):
        with pytest.raises(Refused, match=f"give scales: {said}"):
            plugin.quantize(source, dataclasses.replace(config, **change), context, (Form.FORM_ONNX,))


def test_every_kind_of_layer_can_be_rounded_by_learning(context: Context) -> None:
    plugin, module = QUANTIZERS.load("simulated"), Kinds().eval()
    source = Source(onnx=lambda: b"", module=module)
    config = plugin.Config(images=4, weights=4, edges=False, rounding="adaround", steps=5)
    plugin.quantize(source, config, CONTEXT, (Form.FORM_ONNX,))
    assert set(source.notes["rounded_to_nearest"]) <= set(source.notes["bits"])
    with pytest.raises(Refused, match="give rounding: adaround or epochs"):
        plugin.quantize(source, dataclasses.replace(config, epochs=1), CONTEXT, (Form.FORM_ONNX,))
