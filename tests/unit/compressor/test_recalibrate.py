"""Recalibration of normalisation."""

from __future__ import annotations

import numpy as np
from torch import nn

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench_compressor import recalibrate
from pqbench_compressor.plugins import Context, Training


def test_recalibration_measures_what_the_layer_sees() -> None:
    module = nn.Sequential(nn.BatchNorm2d(3)).eval()
    images = np.random.default_rng(0).integers(0, 256, (64, 4, 4, 3), dtype=np.uint8)
    data = Training(images=images, labels=np.zeros(64), preprocessing=Preprocessing(height=4, width=4, channels=3,
        mean=[0] * 3, std=[1] * 3))  # fmt: skip
    context = Context(seed=0, report=lambda *_: None, classes=0, images=data.inputs(slice(2)), training_split=data)
    recalibrate.recalibrate(module, recalibrate.Config(images=32, batch_size=16), context)
    seen = data.sample(32, 0)
    np.testing.assert_allclose(module[0].running_mean, seen.mean((0, 2, 3)), rtol=1e-4)
    assert module[0].momentum == 0.1 and not module.training
    assert "no batch normalisation" in recalibrate.refusal(nn.Sequential(), recalibrate.Config(), 0, seen)
