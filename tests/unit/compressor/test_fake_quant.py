"""Fake quantization."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pqbench_compressor import fake_quant


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_rounding_in_pytorch_uses_as_many_levels_as_bits_allow(bits: int) -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(64, 4)).eval()
    before = layer[0].weight.clone()
    fake_quant.insert(layer, bits, bits)
    fake_quant.observe(layer, np.random.default_rng(0).normal(size=(32, 64)).astype(np.float32))
    for row in layer[0].weight:
        assert len(torch.unique(row)) <= 2**bits - 1
    seen = layer[0].rounded_input.rounded(torch.linspace(-3, 3, 1000))
    assert len(torch.unique(seen)) <= 2**bits
    fake_quant.remove(layer)
    torch.testing.assert_close(layer[0].weight, before)
    assert not layer[0]._forward_pre_hooks
