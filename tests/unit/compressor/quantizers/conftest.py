"""Fixtures: a small residual network, as a module and as ONNX, with random images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pqbench_compressor import export
from pqbench_compressor.plugins import Context, Training

from ..examples import P, Residual


@pytest.fixture(scope="module")
def context() -> Context:
    rng = np.random.default_rng(0)
    data = Training(images=rng.integers(0, 256, (128, 8, 8, 3), dtype=np.uint8), labels=rng.integers(0, 10, 128),
                    preprocessing=P)  # fmt: skip
    return Context(seed=0, report=lambda *_: None, classes=10, images=data.inputs(slice(8)), training_split=data)


@pytest.fixture(scope="module")
def module() -> nn.Module:
    torch.manual_seed(0)
    return Residual().eval()


@pytest.fixture(scope="module")
def model(module: nn.Module, context: Context) -> bytes:
    return export.to_onnx(module, context.example)
