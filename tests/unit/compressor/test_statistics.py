"""Counts of a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from pqbench_compressor import (
    statistics,
)

from .examples import case, counted


def test_attention_of_pytorch_is_counted() -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True).eval()
    macs = statistics.of_module(layer, np.zeros((2, 8, 32), np.float32), 0).macs
    assert macs == 8 * (4 * 32 * 32 + 2 * 32 * 64) + 2 * 8 * 8 * 32


def test_figures_of_a_model_with_a_class_token(shared_cases: Path) -> None:
    module = case(shared_cases, "class_token", "net")
    by_hand = 16 * 32 * 3 * 64 + 17 * 32 * 32 + 32 * 10
    assert counted(module)[0] == by_hand and all(parameter.requires_grad for parameter in module.parameters())


def test_statistics_count_by_hand() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(8 * 16, 10)).eval()
    with torch.no_grad():
        module[0].weight[:4] = 0
    counted = statistics.of_module(module, np.zeros((2, 3, 4, 4), np.float32), 7)
    assert counted.parameters == 3 * 8 * 9 + 8 * 16 * 10 + 10
    assert counted.nonzeros <= counted.parameters - 4 * 27
    assert counted.macs == 16 * 8 * 27 + 8 * 16 * 10
    assert [layer.macs for layer in counted.layers] == [16 * 8 * 27, 8 * 16 * 10]
    assert counted.state_dict_bytes == 7
