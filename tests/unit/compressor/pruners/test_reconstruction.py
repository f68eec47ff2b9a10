"""The criterion `reconstruction`: what cannot be given back by refitting."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pqbench_compressor.plugins import PRUNERS
from pqbench_compressor.pruners import _reconstruction

from ..examples import REMOVAL, build, macs


def test_the_first_cost_is_the_error_of_a_regression_without_that_input() -> None:
    torch.manual_seed(0)
    x = torch.randn(4096, 6) @ torch.randn(6, 6) + 3.0
    layer = nn.Linear(6, 3)
    costs = _reconstruction.losses(layer, [(x,)], seed=0)[layer]
    mixture = torch.randn(4096, 3, generator=torch.Generator().manual_seed(0)).double()
    weights = mixture.square().sum(0)
    wanted = (x @ layer.weight.T).detach().double()
    left = []
    for gone in range(6):
        rest = torch.cat((x[:, [i for i in range(6) if i != gone]], torch.ones(4096, 1)), 1).double()
        error = wanted - rest @ torch.linalg.lstsq(rest, wanted).solution
        left.append(float((error.square().mean(0) * weights).sum()))
    assert int(costs.argmin()) == left.index(min(left))
    assert float(costs.min()) == pytest.approx(min(left), rel=0.05)


def test_of_two_equal_inputs_only_the_first_is_cheap() -> None:
    torch.manual_seed(0)
    x = torch.randn(512, 4, 8, 8)
    x[:, 3] = x[:, 0]
    layer = nn.Conv2d(4, 5, 3, stride=2, padding="valid")
    costs = _reconstruction.losses(layer, [(part,) for part in x.split(128)], seed=0)[layer]
    cheap = sorted(costs[[0, 3]].tolist())
    assert cheap[0] < 0.01 * cheap[1] and cheap[1] > 0.3 * float(costs[[1, 2]].min())


def test_inputs_of_few_positions_are_not_free() -> None:
    """Of 200 inputs seen at 50 positions, 150 follow from the others by chance."""
    torch.manual_seed(0)
    layer, few, many = nn.Linear(200, 10), torch.randn(50, 200), torch.randn(20_000, 200)
    costs = [_reconstruction.losses(layer, [(x,)], seed=0)[layer] / len(x) for x in (few, many)]
    assert float(costs[0].median()) > 0.3 * float(costs[1].median())


def test_layers_with_many_inputs_lose_several_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_reconstruction, "MOST_STEPS", 3)
    layer = nn.Linear(10, 2)
    costs = _reconstruction.losses(layer, [(torch.randn(100, 10),)], seed=0)[layer]
    assert len(costs.unique()) == 3 and bool((costs > 0).all())


@pytest.mark.parametrize("scope", ["local", "global"])
def test_channels_are_removed_without_labels(scope: str) -> None:
    module, context = build("cifar", "resnet20")
    before = macs(module, context)
    config = PRUNERS.configure(
        "removal",
        f'{{"amount": 0.4, "target": "macs", "criterion": "reconstruction", "scope": "{scope}", "images": 16}}',
    )
    assert REMOVAL.needs(config).training and not REMOVAL.needs(config).labels
    REMOVAL.prune(module, config, context)
    assert macs(module, context) / before == pytest.approx(0.6, abs=0.02)


def test_in_a_very_large_layer_each_input_counts_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, layer = torch.randn(5000, 6) * torch.tensor([0.0, 1, 2, 3, 4, 5]), nn.Linear(6, 3)
    nn.init.ones_(layer.weight)
    exact = _reconstruction.losses(layer, [(x,)], seed=0)[layer]
    monkeypatch.setattr(_reconstruction, "LARGEST", 5)
    alone = _reconstruction.losses(layer, [(x,)], seed=0)[layer]
    assert alone[1:].tolist() == pytest.approx(exact[1:].tolist(), rel=0.1) and float(alone[0]) == 0
