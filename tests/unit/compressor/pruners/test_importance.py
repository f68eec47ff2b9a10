"""Where a method prunes how much."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench_compressor import (
    sensitivity,
)
from pqbench_compressor.plugins import PRUNERS, Context, Training
from pqbench_compressor.pruners._importance import gather

from ..examples import CONTEXT, DATA, Kinds


def test_allocation_takes_more_where_it_costs_less() -> None:
    noise = {"mild": [0.0, 0.01, 0.02], "touchy": [0.0, 1.0, 5.0]}
    savings = {"mild": [0.0, 40.0, 80.0], "touchy": [0.0, 40.0, 80.0]}
    assert sensitivity.allocate(noise, (0.0, 0.4, 0.8), savings, 80) == {"mild": 0.8, "touchy": 0.0}
    assert sensitivity.allocate(noise, (0.0, 0.4, 0.8), savings, 100) == {"mild": 0.8, "touchy": 0.4}


@pytest.mark.parametrize("amount", [0.25, 0.31, 0.5])
def test_sensitive_allocation_prunes_as_much_as_asked_for(amount: float) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(48, 40), nn.ReLU(), nn.Linear(40, 10)).eval()
    images = np.random.default_rng(0).integers(0, 256, (64, 4, 4, 3), dtype=np.uint8)
    data = Training(images=images, labels=np.arange(64) % 10, preprocessing=Preprocessing(height=4, width=4, channels=3,
        mean=[0.5] * 3, std=[0.25] * 3))  # fmt: skip
    context = Context(seed=0, report=lambda *_: None, classes=10, images=data.inputs(slice(2)), training_split=data)
    plugin = PRUNERS.load("l1-auto")
    plugin.prune(module, plugin.Config(amount=amount, images=6), context)
    weights = [layer.weight for layer in module if isinstance(layer, nn.Linear)]
    zeros = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
    assert zeros == pytest.approx(amount, abs=0.002)


def test_the_criterion_sensitivity_is_the_gradient_at_the_outputs_of_every_kind_of_layer() -> None:
    module, outputs = Kinds().eval(), {}
    for name in ("c3", "up", "c1", "a"):

        def keep(layer: nn.Module, inputs: Any, output: torch.Tensor, name: str = name) -> None:
            output.retain_grad()
            outputs[name] = output

        module.get_submodule(name).register_forward_hook(keep)
    gather("sensitivity", module, CONTEXT, 8)
    images, labels = (torch.from_numpy(array) for array in DATA.labelled(8, 0))
    found = {name: module.get_submodule(name).weight.grad.clone() for name in ("c3", "up", "c1")}
    module.zero_grad()
    functional.cross_entropy(module(images), labels, reduction="sum").div(len(images)).backward()
    for name, grad in found.items():
        wanted = outputs[name].grad.abs().transpose(0, 1).flatten(1).sum(1)
        along = grad.transpose(0, 1) if name == "up" else grad
        torch.testing.assert_close(along.flatten(1)[:, 0], wanted, rtol=1e-4, atol=1e-7)
