"""Refitting pruned weights to the unpruned model's values."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pqbench_compressor import blocks, compensate, export, masks, steps
from pqbench_compressor.lockstep import Lockstep
from pqbench_compressor.plugins import PRUNERS, Context, Training
from pqbench_compressor.tensors import tensors
from pqbench_wire.errors import Refused

from .examples import PREPROCESSING, build

IMAGES = np.random.default_rng(1).integers(0, 256, (160, 32, 32, 3), dtype=np.uint8)
DATA = Training(images=IMAGES, labels=np.arange(160) % 10, preprocessing=PREPROCESSING)


class Mobile(nn.Module):
    """An inverted residual with a depthwise convolution, and layers without batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.wide = nn.Sequential(nn.Conv2d(16, 64, 1), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.Conv2d(64, 64, 3, 1, 1, groups=64, bias=False), nn.BatchNorm2d(64), nn.ReLU6()
        )
        self.narrow = nn.Conv2d(64, 16, 1)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 64), nn.GELU(), nn.Linear(64, 10)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(x + self.narrow(self.depthwise(self.wide(x))))


def example(name: str) -> tuple[nn.Module, Context]:
    """A network with random weights, and a context with noise, in which it is the unpruned model."""
    torch.manual_seed(0)
    if name == "mobile":
        module, data = Mobile().eval(), DATA
        context = Context(seed=0, report=lambda *_: None, classes=10, images=DATA.inputs(slice(2)), training_split=DATA)
    else:
        module, context = build(*name.split("/"))
        p = context.training.preprocessing
        images = np.random.default_rng(1).integers(0, 256, (160, p.height, p.width, 3), dtype=np.uint8)
        data = Training(images=images, labels=np.arange(160) % 10, preprocessing=p)
    for key, parameter in module.named_parameters():
        if key.endswith("gamma"):  # a layer scale begins so small that its block does nothing
            nn.init.ones_(parameter)
    unpruned = copy.deepcopy(module)
    return module, dataclasses.replace(context, training_split=data, load_baseline=lambda: copy.deepcopy(unpruned))


def prune(module: nn.Module, context: Context, pruner: str, **config: Any) -> None:
    plugin = PRUNERS.load(pruner)
    before = masks.zeros(module)
    plugin.prune(module, plugin.Config(**config), context)
    masks.mark_new_zeros(module, before)


def noise(module: nn.Module, context: Context) -> float:
    """The energy of the change of the outputs, as a share of their variance, on images that nothing was fitted to."""
    inputs = context.training.held_out(16, 0)[0]
    wanted, given = (export.run_module(one.eval(), inputs) for one in (context.baseline, module))
    return float(np.square(given - wanted).sum() / np.square(wanted - wanted.mean(0)).sum())


@pytest.mark.parametrize(
    ("name", "pruner", "config"),
    [
        ("mobile", "removal", {"amount": 0.3}),
        ("mobile", "l1-global", {"amount": 0.5}),
        ("mobile", "nm", {}),
        ("cifar/resnet20", "removal", {"amount": 0.3}),
        ("cifar/resnet20", "depth", {"amount": 0.3}),
        pytest.param("torchvision/mobilenet_v2", "depth", {"amount": 0.2}, marks=pytest.mark.long),
        ("timm/test_vit", "depth", {"amount": 0.3}),
        ("timm/test_convnext", "depth", {"amount": 0.3}),
        ("timm/test_vit", "removal", {"amount": 0.3}),
    ],
)
def test_the_outputs_come_back(name: str, pruner: str, config: dict[str, Any]) -> None:
    module, context = example(name)
    prune(module, context, pruner, **config)
    before, zeros = noise(module, context), masks.zeros(module)
    shapes = {key: value.shape for key, value in module.state_dict().items()}
    notes = compensate.compensate(module, compensate.Config(images=144, batch_size=16), context)
    assert noise(module, context) < 0.7 * before, before
    assert notes["refitted"] >= 6 and not notes["left_as_they_are"]
    assert {key: value.shape for key, value in module.state_dict().items()} == shapes
    after = masks.zeros(module)
    assert all(after[key] >= zeros[key] for key in masks.pruned(module)), "zeros stay"


def test_what_led_to_removed_blocks_now_gives_what_they_gave() -> None:
    """Of two blocks in a row: the sum and the activation before them."""
    module, context = example("cifar/resnet20")
    for name in ("layer1.1", "layer1.2"):
        blocks.remove(module, name)
    with torch.no_grad():
        inputs = tensors(context.training.held_out(4, 0)[0])
        pair = Lockstep(module, context.baseline, [inputs])
        wanted = context.baseline.get_submodule("layer1")(torch.relu(_stem(context.baseline, inputs[0])))
    first = next(node for node in pair.pruned.nodes if node.target == torch.ops.aten.add.Tensor)
    (activation,) = first.users
    for node, value in ((activation, wanted), (first, wanted)):
        assert torch.allclose(torch.relu(pair.wanted(node)[0]), value, atol=1e-5)


def _stem(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    value: torch.Tensor = network.get_submodule("bn1")(network.get_submodule("conv1")(images))
    return value


def test_a_model_that_lost_nothing_stays_as_it_is() -> None:
    module, context = example("mobile")
    compensate.compensate(module, compensate.Config(images=144, batch_size=16), context)
    assert noise(module, context) < 1e-6


def test_weights_that_were_trained_since_are_refused() -> None:
    module, context = example("mobile")
    prune(module, context, "removal", amount=0.3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1e-3 * torch.randn_like(parameter))
    with pytest.raises(Refused, match="was trained since it was pruned"):
        compensate.compensate(module, compensate.Config(images=32, batch_size=16), context)


@pytest.mark.parametrize(
    ("kinds", "is_refused"),
    [
        (["prune", "compensate", "finetune"], False), (["prune", "recalibrate", "compensate", "quantize"], False),
        (["prune", "finetune"], False), (["compensate"], True), (["prune", "finetune", "compensate"], True),
        (["compensate", "prune"], True),
    ],
)  # fmt: skip
def test_it_follows_a_pruning_step(kinds: list[str], is_refused: bool) -> None:
    assert bool(steps.recovery_refusal(kinds)) == is_refused


def test_a_model_without_such_layers_is_refused() -> None:
    seen = DATA.inputs(slice(2))
    assert "no convolution or product" in compensate.refusal(nn.Sequential(nn.ReLU()), compensate.Config(), 0, seen)


def test_very_large_layers_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    module, context = example("mobile")
    prune(module, context, "removal", amount=0.3)
    monkeypatch.setattr(compensate, "LARGEST", 100)
    notes = compensate.compensate(module, compensate.Config(images=32), context)
    assert notes["left_as_they_are"] == ["head.2.weight"]
