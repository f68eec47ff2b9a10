"""FP16 and its overflow."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from pqbench.common.v1.common_pb2 import Form
from pqbench_compressor import export
from pqbench_compressor.plugins import QUANTIZERS, Context, Source
from pqbench_compressor.quantizers._narrow import Island, narrowed
from pqbench_wire.errors import Refused

from ..examples import TWO


def test_layers_that_would_overflow_stay_fp32_and_are_named(context: Context) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(256, 10)).eval()
    with torch.no_grad():
        module[0].weight.mul_(1e6)
        module[1].weight.mul_(1e-6)
    source = Source(onnx=lambda: export.to_onnx(module, context.example), module=module)
    plugin = QUANTIZERS.load("fp16")
    made = plugin.quantize(source, plugin.Config(), context, plugin.FORMS)
    assert len(source.notes["kept_fp32"]) == 2 and source.notes["kept_fp32_in_pytorch"] == ["0", "1"]
    reference = export.run_module(module, context.images)
    for form, data in made.items():
        outputs = (
            export._run_pt2(data, context.images) if form == Form.FORM_PT2 else export.run_onnx(data, context.images)
        )
        assert np.isfinite(outputs).all() and export.sqnr(reference, outputs) > 30


def test_overflow_is_looked_for_on_training_images(context: Context) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(256, 10)).eval()
    source = Source(onnx=lambda: export.to_onnx(module, context.example), module=module)
    plugin = QUANTIZERS.load("fp16")
    loud = dataclasses.replace(context, images=np.full_like(context.images, 1e6))
    plugin.quantize(source, plugin.Config(), loud, (Form.FORM_ONNX,))
    assert source.notes["kept_fp32"] == [] and plugin.needs(plugin.Config()).training_if_any


class Expression(nn.Module):
    """A value beyond FP16 in an expression, not in a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.f = nn.Conv2d(3, 8, 3), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.f(((self.a(x) * 1e5) / 1e5).mean((2, 3)))


def test_fp16_in_pytorch_sees_overflow_in_expressions() -> None:
    with pytest.raises(Refused, match="in the model's own forward"):
        narrowed(Expression(), torch.float16, TWO, 32752.0)
    outer = nn.Sequential(Expression(), nn.Linear(10, 10)).eval()
    module, kept = narrowed(outer, torch.float16, TWO, 32752.0)
    assert kept == ["0"] and isinstance(module[0], Island)
    with torch.inference_mode():
        torch.testing.assert_close(module(torch.from_numpy(TWO)), outer(torch.from_numpy(TWO)), rtol=0.02, atol=0.02)
