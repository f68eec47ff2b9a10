"""`removal` with `target: latency`: the layers' measured times decide where channels go."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from pqbench_compressor.layers import Layer
from pqbench_compressor.plugins import PRUNERS
from pqbench_compressor.pruners import removal
from pqbench_compressor.pruners._costs import Costs
from pqbench_wire.errors import InvalidInput, Refused

from ..examples import REMOVAL, build


def config(latencies: dict[str, float], **more: Any) -> Any:
    values = {"amount": 0.3, "target": "latency", "latencies": latencies, "round_to": 1, "scope": "global"} | more
    return PRUNERS.configure("removal", json.dumps(values))


def weights(module: nn.Module) -> dict[str, int]:
    """The number of each layer's weights, to which its time is proportional."""
    return {name: layer.weight.numel() for name, layer in module.named_modules() if isinstance(layer, Layer)}


def test_channels_go_where_the_time_is_and_the_share_is_met() -> None:
    module, context = build("cifar", "resnet20")
    before, layers = weights(module), list(weights(module))
    slow = next(name for name in layers if name.endswith("conv1") and name != "conv1")
    latencies = {f"{name}_token_1": 1.0 for name in layers} | {f"{slow}/Fused": 100.0, "Reorder": 9.0}
    REMOVAL.prune(module, config(latencies), context)
    left = {name: after / before[name] for name, after in weights(module).items()}
    assert left[slow] < 0.8
    time = sum(left[name] * (101.0 if name == slow else 1.0) for name in layers)
    assert time / (len(layers) + 100.0) == pytest.approx(0.7, abs=0.02)


def test_a_name_belongs_to_the_longest_layer_that_it_begins_with() -> None:
    module = nn.Sequential(*(nn.Conv2d(4, 4, 1) for _ in range(12)))
    model = nn.Sequential(module)
    times = {"0.1_token": 1.0, "0.11/WithoutBiases": 2.0, "0.10": 4.0, "0.1a": 8.0, "0.1.weight": 16.0}
    costs = Costs(model, torch.zeros(1, 4, 2, 2), "latency", times)
    shares = {name: costs._rates[layer] for name, layer in model.named_modules() if isinstance(layer, Layer)}
    assert shares["0.11"] == pytest.approx(2 * shares["0.1"]) and shares["0.10"] == pytest.approx(4 * shares["0.1"])
    assert shares["0.0"] == 0


def test_times_of_no_layer_and_what_does_not_fit_together_are_told() -> None:
    module, context = build("cifar", "resnet20")
    with pytest.raises(InvalidInput, match="latencies: no name begins with that of a layer"):
        removal.refusal(module, config({"Reorder": 1.0}), 10, context.example[:1])
    for values in ({"target": "latency", "amount": 0.1}, {"latencies": {"conv1": 1}, "amount": 0.1}):
        with pytest.raises(InvalidInput, match="target: latency and latencies need each other"):
            PRUNERS.configure("removal", json.dumps(values))
    with pytest.raises(InvalidInput, match="latencies"):
        config({"conv1": -1.0})


def test_a_share_that_cannot_be_reached_is_refused() -> None:
    module, context = build("cifar", "resnet20")
    with pytest.raises(Refused, match="99% of this model's latency cannot be removed"):
        REMOVAL.prune(module, config({"conv1": 1.0, "fc": 1.0}, amount=0.99), context)
