"""`depth` removes whole residual blocks."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pqbench_compressor import blocks, checkpoint, export
from pqbench_compressor.plugins import PRUNERS, Context
from pqbench_wire.errors import InvalidInput, Refused
from pqbench_wire.shared.inputs import Inputs

from ..examples import build, macs

DEPTH = PRUNERS.load("depth")


def config(**values: Any) -> Any:
    return PRUNERS.configure("depth", json.dumps(values))


@pytest.fixture
def network() -> tuple[nn.Module, Context]:
    """A ResNet-20, of which two blocks do nearly nothing."""
    module, context = build("cifar", "resnet20")
    with torch.no_grad():
        for name in ("layer1.1", "layer3.2"):
            for parameter in module.get_submodule(f"{name}.bn2").parameters():
                parameter.mul_(1e-3)
    return module, context


def test_the_blocks_that_do_least_go(network: tuple[nn.Module, Context]) -> None:
    module, context = network
    before = export.run_module(module, context.example)
    notes = DEPTH.prune(module, config(amount=0.3), context)
    assert notes["blocks_removed"] == ["layer1.1", "layer3.2"]
    assert abs(export.run_module(module, context.example) - before).max() < 0.05 * abs(before).max()
    whole, _ = build("cifar", "resnet20")
    assert notes["macs_left"] == pytest.approx(macs(module, context) / macs(whole, context))


@pytest.mark.parametrize(("target", "amount"), [("macs", 0.3), ("parameters", 0.25), ("latency", 0.5)])
def test_a_share_of_a_cost_is_met_as_near_as_blocks_allow(
    network: tuple[nn.Module, Context], target: str, amount: float
) -> None:
    module, context = network
    latencies = {"latencies": {"layer2.1.conv1": 5.0, "layer1.0.conv2/fused": 4.0, "linear": 1.0}}
    DEPTH.prune(module, config(amount=amount, target=target, **latencies if target == "latency" else {}), context)
    whole, _ = build("cifar", "resnet20")
    if target == "latency":
        assert len({"layer2.1", "layer1.0"} & set(blocks.removed(module, whole))) == 1
    else:
        count = {"macs": lambda m: macs(m, context), "parameters": lambda m: sum(p.numel() for p in m.parameters())}
        largest = 0.3 if target == "parameters" else 0.12
        assert count[target](module) / count[target](whole) == pytest.approx(1 - amount, abs=largest / 2)


def test_a_block_that_is_too_large_gives_way_to_others(network: tuple[nn.Module, Context]) -> None:
    """The last block, which would be the first to go, has a quarter of the parameters."""
    module, context = network
    notes = DEPTH.prune(module, config(amount=0.08, target="parameters"), context)
    assert notes["blocks_removed"] and not any(name.startswith("layer3") for name in notes["blocks_removed"])


def test_the_blocks_to_keep_stay(network: tuple[nn.Module, Context]) -> None:
    module, context = network
    notes = DEPTH.prune(module, config(amount=0.3, keep=["layer3.*"]), context)
    assert "layer1.1" in notes["blocks_removed"] and not any("layer3" in name for name in notes["blocks_removed"])
    with pytest.raises(InvalidInput, match="keep: no block matches 'stem'; block names look like 'layer1"):
        DEPTH.refusal(module, config(amount=0.3, keep=["stem"]), 10, context.example)


def test_what_cannot_be_removed_is_refused(network: tuple[nn.Module, Context]) -> None:
    module, context = network
    said = DEPTH.refusal(module, config(amount=0.95, target="macs"), 10, context.example)
    assert "95% of this model's macs cannot be removed: its residual blocks have 81%" in said
    assert "amount 0.01 removes no block" in DEPTH.refusal(module, config(amount=0.01), 10, context.example)
    with pytest.raises(Refused, match="removes no block"):
        DEPTH.prune(module, config(amount=0.01), context)
    plain = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten())
    assert "this model has none" in DEPTH.refusal(plain, config(amount=0.3), 10, context.example)
    with pytest.raises(InvalidInput, match="need each other"):
        config(amount=0.3, target="latency")
    for wrong in ({"fixed": 1, "scale": 2}, {"fixed": 1}):
        with pytest.raises(InvalidInput, match="latencies"):
            config(amount=0.3, target="latency", latencies={"conv1": wrong})
    two = Inputs(arrays={"a": context.example, "b": context.example})
    assert "needs a model with one image input" in DEPTH.refusal(module, config(amount=0.3), 10, two)


def test_a_checkpoint_brings_the_shorter_network_back(network: tuple[nn.Module, Context], tmp_path: Path) -> None:
    module, context = network
    whole = copy.deepcopy(module)
    DEPTH.prune(module, config(amount=0.4), context)
    (tmp_path / "c").write_bytes(checkpoint.save(module, whole, []))
    checkpoint.load(tmp_path / "c", whole)
    assert (export.run_module(whole, context.example) == export.run_module(module, context.example)).all()
    with pytest.raises(InvalidInput, match="not a checkpoint of this model"):
        checkpoint.load(tmp_path / "c", build("digits", "resnet")[0])
