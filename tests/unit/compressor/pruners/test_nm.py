"""N:M sparsity."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pqbench_compressor import export
from pqbench_compressor.plugins import PRUNERS
from pqbench_compressor.training import Options, train
from pqbench_wire.errors import InvalidInput

from ..examples import build


@pytest.mark.long
def test_n_of_m_survives_training_and_export() -> None:
    module, context = build("cifar", "resnet20")
    plugin, config = PRUNERS.load("nm"), PRUNERS.configure("nm", "{}")
    notes = plugin.prune(module, config, context)
    assert notes == {"pattern": "2:4", "dense": ["conv1"]}
    train(module, context.training, Options(batch_size=4), seed=0, report=lambda *_: None)
    assert plugin.problem(export.to_onnx(module, context.example), module, config) == ""
    with torch.no_grad():
        module.layer2[0].conv1.weight += 1
    assert "is not 2:4 sparse after export" in plugin.problem(export.to_onnx(module, context.example), module, config)
    with pytest.raises(InvalidInput, match="n .4. must be less than m .4."):
        PRUNERS.configure("nm", '{"n": 4, "m": 4}')
    narrow = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 6, 1))
    assert "multiples of 4" in plugin.refusal(narrow, config, 10, context.example)
