"""Batch norms folded into convolutions."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pqbench_compressor import export, folding
from pqbench_compressor.tensors import tensors

from .examples import build


@pytest.mark.parametrize(
    ("family", "name"), [("cifar", "resnet20"), ("torchvision", "mobilenet_v2"), ("timm", "test_efficientnet")]
)
def test_the_outputs_stay(family: str, name: str) -> None:
    module, context = build(family, name)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.running_mean, -0.1, 0.1)
            nn.init.uniform_(norm.bias, -0.1, 0.1)
    before = export.run_module(module, context.example)
    norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d)]
    assert len(folding.fold(module, tensors(context.example))) == len(norms)
    for norm in norms:
        images = torch.randn(2, norm.num_features, 4, 4)
        scaled = nn.functional.batch_norm(images, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=0.0)
        assert norm.eps == 0 and torch.equal(scaled, images)
    assert abs(export.run_module(module, context.example) - before).max() < 1e-4 * abs(before).max()


class Uneven(nn.Module):
    """A convolution that also something else reads, and one that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.twice = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.one, self.two = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.read(x)
        return self.two(self.twice(self.twice(self.one(y) + y)))


def test_what_cannot_be_folded_stays() -> None:
    module = Uneven().eval()
    before = copy.deepcopy(module.state_dict())
    assert folding.fold(module, (torch.randn(2, 3, 4, 4),)) == []
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
