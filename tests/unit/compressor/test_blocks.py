"""Residual blocks: found by what they compute."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pqbench_compressor import blocks
from pqbench_compressor.tensors import tensors

from .examples import build


class Layers(nn.Module):
    """What looks like residual blocks, and is one or not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.plain, self.scaled = nn.Conv2d(4, 4, 1), Scaled()
        self.wide, self.twice = Residual(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 1)), Residual(nn.Conv2d(4, 4, 1))
        self.nested = Residual(Residual(nn.Conv2d(4, 4, 1)))
        self.also = self.named_twice = Residual(nn.Conv2d(4, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.wide(self.scaled(torch.relu(self.plain(self.stem(x)))))
        return self.named_twice(self.nested(self.twice(self.twice(x))))


class Residual(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


class Scaled(nn.Module):
    """Adds to twice its input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x + self.layer(x)


def test_blocks_are_those_that_return_their_input_without_their_parameters() -> None:
    assert blocks.residual(Layers(), (torch.randn(2, 3, 4, 4),)) == ["wide", "nested.layers.0"]


@pytest.mark.parametrize(
    ("family", "name", "first", "count"),
    [
        ("cifar", "resnet20", "layer1.0", 7), ("torchvision", "mobilenet_v2", "features.3", 10),
        ("torchvision", "resnet50", "layer1.1", 12), ("timm", "test_vit", "blocks.0", 6),
        ("timm", "test_convnext", "stages.0.blocks.0", 9), ("torchvision", "squeezenet1_1", "", 0),
    ],
)  # fmt: skip
def test_architectures(family: str, name: str, first: str, count: int) -> None:
    module, context = build(family, name)
    before = copy.deepcopy(module.state_dict())
    found = blocks.residual(module, tensors(context.example))
    assert found[:1] == [first][:count] and len(found) == count
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_what_was_removed_is_known() -> None:
    module, whole = Layers(), Layers()
    assert blocks.removed(module, whole) == []
    blocks.remove(module, "nested.layers.0")
    assert blocks.removed(module, whole) == ["nested.layers.0"]
