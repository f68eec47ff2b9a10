"""BF16: what NVIDIA's parser takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
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
