"""Smoothing and bias correction."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from pqbench.common.v1.common_pb2 import Form
from pqbench_compressor import export
from pqbench_compressor.plugins import QUANTIZERS, Context, Source
from pqbench_compressor.quantizers import _calibration, _smoothing


def test_smoothing_changes_no_output_and_evens_out_channels() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(2), nn.LayerNorm(64), nn.Linear(64, 32)).eval()
    with torch.no_grad():
        module[1].weight[3] = 50
    inputs = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
    before = export.to_onnx(module, inputs[:2])
    pairs = _smoothing.smoothable(before)
    assert len(pairs) == 1
    name = next(iter(pairs))
    calibration = _calibration.collect(before, pairs, inputs, lambda *_: None)
    after = _smoothing.smooth(before, calibration, 0.5)
    np.testing.assert_allclose(export.run_onnx(after, inputs), export.run_onnx(before, inputs), atol=1e-4)
    again = _calibration.collect(after, pairs, inputs, lambda *_: None)

    def spread(found: Any) -> float:
        largest = found.activations[name].channel_max
        return float(largest.max() / np.median(largest))

    assert spread(again) < spread(calibration) / 4


def test_bias_correction_removes_the_mean_error(module: nn.Module, model: bytes, context: Context) -> None:
    plugin = QUANTIZERS.load("int8-static")
    inputs = context.training.sample(64, 0)
    reference = export.run_onnx(model, inputs)

    def mean_error(**values: Any) -> float:
        config = plugin.Config(images=64, ranges="min-max", smooth=0.0, **values)
        made = plugin.quantize(Source(onnx=lambda: model, module=module), config, context, (Form.FORM_QDQ_SIGNED,))
        return float(np.abs((export.run_onnx(made[Form.FORM_QDQ_SIGNED], inputs) - reference).mean(0)).mean())

    assert mean_error(bias_correction=True) < mean_error(bias_correction=False)
