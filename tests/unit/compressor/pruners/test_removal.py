"""Structured removal."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pqbench_compressor import (
    checkpoint,
    export,
)
from pqbench_compressor.models._attention import SelfAttention
from pqbench_compressor.plugins import PRUNERS, Context
from pqbench_compressor.pruners import removal
from pqbench_wire.errors import InvalidInput, Refused

from ..examples import CONTEXT, REMOVAL, TWO, build, case, counted, macs, prune

MORE = [pytest.mark.long, pytest.mark.more]


@pytest.mark.parametrize(
    ("family", "name"),
    [("timm", "test_vit"),
     pytest.param("cifar", "resnet56", marks=pytest.mark.long),
     pytest.param("torchvision", "mobilenet_v3_small", marks=pytest.mark.long),
     pytest.param("thesis", "shufflenetv2", marks=pytest.mark.long),
     pytest.param("thesis", "mobilenetv2", marks=pytest.mark.long),
     pytest.param("torchvision", "efficientnet_b0", marks=MORE),
     pytest.param("torchvision", "resnet50", marks=MORE),
     pytest.param("torchvision", "convnext_tiny", marks=MORE)],
)  # fmt: skip
def test_half_of_the_macs_are_removed_and_the_checkpoint_loads(family: str, name: str, tmp_path: Path) -> None:
    module, context = build(family, name)
    before, unpruned = macs(module, context), copy.deepcopy(module)
    config = PRUNERS.configure("removal", '{"amount": 0.5, "target": "macs"}')
    assert REMOVAL.refusal(module, config, context.classes, context.example[:1]) == ""
    notes = REMOVAL.prune(module, config, context)
    assert macs(module, context) / before == pytest.approx(0.5, abs=0.02)
    assert notes["macs_left"] == pytest.approx(macs(module, context) / before, abs=0.005)
    path = tmp_path / "pruned.safetensors"
    path.write_bytes(checkpoint.save(module, unpruned, []))
    checkpoint.load(path, unpruned)
    np.testing.assert_array_equal(
        export.run_module(unpruned, context.images), export.run_module(module, context.images)
    )


@pytest.mark.parametrize("heads", ["channels", "whole"])
def test_heads_and_widths_of_a_vision_transformer_are_pruned(heads: str) -> None:
    torch.manual_seed(0)
    from torchvision.models import VisionTransformer

    from pqbench_compressor.models._attention import with_separate_projections

    plain = VisionTransformer(32, 8, 2, 4, 64, 128, num_classes=10).eval()
    nn.init.normal_(plain.heads.head.weight, std=0.1)
    inputs = torch.randn(3, 3, 32, 32)
    expected = plain(inputs)
    module = with_separate_projections(copy.deepcopy(plain))
    torch.testing.assert_close(module(inputs), expected)
    module.load_state_dict(plain.state_dict())  # published weights name the joint projection
    context = Context(seed=0, report=lambda *_: None, classes=10, images=inputs.numpy())
    REMOVAL.prune(module, PRUNERS.configure("removal", json.dumps({"amount": 0.5, "heads": heads})), context)
    attention = next(m for m in module.modules() if isinstance(m, SelfAttention))
    assert (attention.num_heads, attention.head_dim) == ((4, 8) if heads == "channels" else (2, 16))
    assert module.hidden_dim == 32 and module.heads.head.in_features == 32
    assert export.run_module(module, context.images).shape == (3, 10)


def test_layers_to_keep_are_kept_and_must_exist() -> None:
    module, context = build("cifar", "resnet20")
    config = PRUNERS.configure("removal", '{"amount": 0.5, "keep": ["layer1.*"]}')
    REMOVAL.prune(module, config, context)
    assert [block.conv1.out_channels for block in module.layer1] == [16, 16, 16]
    assert [block.conv1.out_channels for block in module.layer3] == [32, 32, 32]
    wrong = PRUNERS.configure("removal", '{"amount": 0.5, "keep": ["layerX"]}')
    with pytest.raises(InvalidInput, match="no layer matches 'layerX'; layer names look like 'conv1'"):
        REMOVAL.refusal(build("cifar", "resnet20")[0], wrong, 10, context.example[:1])


@pytest.mark.long
def test_what_removal_cannot_do_is_refused_with_what_can_be_had() -> None:
    module, context = build("cifar", "resnet20")
    config = PRUNERS.configure("removal", '{"amount": 0.97, "target": "macs"}')
    reason = REMOVAL.refusal(module, config, 10, context.example[:1])
    assert "97% of this model's macs cannot be removed; 69% is possible with round_to 8" in reason
    with pytest.raises(Refused, match="69% is possible"):
        REMOVAL.prune(module, config, context)
    norms = PRUNERS.configure("removal", '{"amount": 0.5, "criterion": "bn-scale"}')
    assert "of which this model has none" in REMOVAL.refusal(
        build("thesis", "squeezenet")[0], norms, 1000, context.example
    )
    with pytest.raises(Refused, match="all scales .* are equal"):
        REMOVAL.prune(build("cifar", "resnet20")[0], norms, context)
    with pytest.raises(InvalidInput, match="heads: whole needs target: channels"):
        PRUNERS.configure("removal", '{"amount": 0.5, "heads": "whole", "target": "macs"}')


def test_layers_as_wide_as_the_classifier_are_pruned() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)]
    module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 32)).eval()
    images = np.random.default_rng(0).random((2, 3, 12, 12), np.float32)
    context = Context(seed=0, report=lambda *_: None, classes=32, images=images)
    REMOVAL.prune(module, REMOVAL.Config(amount=0.5, criterion="l2"), context)
    assert [module[0].out_channels, module[2].out_channels, module[6].out_features] == [16, 16, 32]


@pytest.mark.parametrize(
    ("file", "function"),
    [("targets", "up"), ("targets", "seq"), pytest.param("targets", "gn", marks=pytest.mark.long), ("regrow", "layer"), ("regrow", "conv1d"),
     ("class_token", "net"), ("weightnorm", "wn"), ("weightnorm", "ws")],
)  # fmt: skip
@pytest.mark.parametrize(("target", "amount"), [("macs", 0.5), ("parameters", 0.4)])
def test_a_share_is_met_within_two_percent_or_refused(
    shared_cases: Path, file: str, function: str, target: str, amount: float
) -> None:
    module = case(shared_cases, file, function)
    before = counted(module)[target == "parameters"]
    text = f'{{"target": "{target}", "amount": {amount}}}'
    config = PRUNERS.configure("removal", text)
    refusal = removal.refusal(module, config, 10, TWO[:1])
    if refusal:
        assert "is possible" in refusal
        with pytest.raises(Refused, match="is possible"):
            removal.prune(module, config, CONTEXT)
        return
    removal.prune(module, config, CONTEXT)
    assert counted(module)[target == "parameters"] / before == pytest.approx(1 - amount, abs=0.02)


def test_what_works_is_not_refused(shared_cases: Path) -> None:
    """Groups of a normalisation, frozen parameters, a target that one layer alone can meet."""
    for file, function, config in (
        ("targets", "up", '{"target": "macs", "amount": 0.5}'),
        ("targets", "gn", '{"target": "macs", "amount": 0.5}'),
        ("targets", "gn", '{"amount": 0.5}'),
        ("regrow", "layer", '{"target": "macs", "amount": 0.5}'),
        ("regrow", "layer", '{"target": "parameters", "amount": 0.4}'),
    ):
        module = case(shared_cases, file, function).requires_grad_(False)
        assert removal.refusal(module, PRUNERS.configure("removal", config), 10, TWO[:1]) == ""
        prune(module, "removal", config)
        assert not any(parameter.requires_grad for parameter in module.parameters())
    assert case(shared_cases, "targets", "gn").c1.out_channels == 64
    module = case(shared_cases, "targets", "gn")
    prune(module, "removal", '{"amount": 0.5}')
    assert module.c1.out_channels == 32


def test_tracing_that_takes_too_long_is_refused(shared_cases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "MOST_SECONDS", 0.2)
    monkeypatch.setattr(removal._Pruner, "_is_atten_group", lambda self, group: endless())
    config = PRUNERS.configure("removal", '{"amount": 0.5}')
    reason = removal.refusal(case(shared_cases, "targets", "up"), config, 10, TWO[:1])
    assert "cannot follow this architecture within" in reason


def endless() -> Any:
    while True:
        sum(range(1000))
