"""Removal on architectures that resist it, N:M, recalibration, allocation, resumed training."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench_compressor import checkpoint, export, recalibrate, sensitivity, statistics, training
from pqbench_compressor.models._attention import SelfAttention
from pqbench_compressor.plugins import MODELS, PRUNERS, Context, Files, Training
from pqbench_compressor.pruners import _own
from pqbench_compressor.training import Options, train
from pqbench_wire.errors import Failed, InvalidInput, Refused

REMOVAL = PRUNERS.load("removal")


def build(family: str, name: str) -> tuple[nn.Module, Context]:
    """A model with random weights that are nowhere all zero, and noise for it."""
    plugin = MODELS.load(family)
    info = plugin.info(name, plugin.Config(), Files())
    torch.manual_seed(0)
    module = plugin.build(name, plugin.Config(), Files()).eval()
    for layer in module.modules():
        if isinstance(layer, nn.Linear) and not layer.weight.any():
            nn.init.normal_(layer.weight, std=0.02)
    p = info.preprocessing
    images = np.random.default_rng(0).integers(0, 256, (8, p.height, p.width, p.channels), dtype=np.uint8)
    data = Training(images=images, labels=np.arange(8) % info.classes, preprocessing=p)
    context = Context(
        seed=0, report=lambda *_: None, classes=info.classes, images=data.inputs(slice(2)), training_split=data
    )
    return module, context


def macs(module: nn.Module, context: Context) -> int:
    return statistics.of_module(module, context.example, 0).macs


@pytest.mark.parametrize(
    ("family", "name"),
    [("timm", "test_vit"),
     pytest.param("cifar", "resnet56", marks=pytest.mark.long),
     pytest.param("torchvision", "mobilenet_v3_small", marks=pytest.mark.long),
     pytest.param("thesis", "shufflenetv2", marks=pytest.mark.long),
     pytest.param("thesis", "mobilenetv2", marks=pytest.mark.long),
     pytest.param("torchvision", "efficientnet_b0", marks=pytest.mark.long),
     pytest.param("torchvision", "resnet50", marks=pytest.mark.long),
     pytest.param("torchvision", "convnext_tiny", marks=pytest.mark.long)],
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
    with pytest.raises(InvalidInput, match="no layer is called 'layerX'; layers are called like 'conv1'"):
        REMOVAL.refusal(build("cifar", "resnet20")[0], wrong, 10, context.example[:1])


@pytest.mark.long
def test_what_removal_cannot_do_is_refused_with_what_can_be_had() -> None:
    module, context = build("cifar", "resnet20")
    config = PRUNERS.configure("removal", '{"amount": 0.97, "target": "macs"}')
    reason = REMOVAL.refusal(module, config, 10, context.example[:1])
    assert "cannot take 97% of this model's macs; 69% can be had with round_to 8" in reason
    with pytest.raises(Refused, match="69% can be had"):
        REMOVAL.prune(module, config, context)
    norms = PRUNERS.configure("removal", '{"amount": 0.5, "criterion": "bn-scale"}')
    assert "of which this model has none" in REMOVAL.refusal(
        build("thesis", "squeezenet")[0], norms, 1000, context.example
    )
    with pytest.raises(Refused, match="all scales .* are equal"):
        REMOVAL.prune(build("cifar", "resnet20")[0], norms, context)
    with pytest.raises(InvalidInput, match="heads: whole goes with target: channels"):
        PRUNERS.configure("removal", '{"amount": 0.5, "heads": "whole", "target": "macs"}')


def test_parameter_counts_are_the_thesis_table_3() -> None:
    plugin = MODELS.load("thesis")
    counts = {name: sum(p.numel() for p in plugin.build(name, plugin.Config(), Files()).parameters())
              for name in plugin.names()}  # fmt: skip
    auxiliary_head = 3_326_696  # of Inception V3: the thesis counted it, the deployed model has none
    assert counts.pop("inceptionv3") + auxiliary_head == 27_161_264
    assert counts == {
        "alexnet": 61_100_840, "densenet": 7_978_856, "googlenet": 6_624_904, "resnet": 11_689_512,
        "mobilenetv2": 3_504_872, "shufflenetv2": 2_278_604, "simplenet": 5_752_808, "squeezenet": 1_248_424,
        "visiontransformer": 86_567_656,
    }  # fmt: skip
    assert plugin.info("inceptionv3", plugin.Config(), Files()).preprocessing.height == 299


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


def test_allocation_takes_more_where_it_costs_less() -> None:
    noise = {"mild": [0.0, 0.01, 0.02], "touchy": [0.0, 1.0, 5.0]}
    savings = {"mild": [0.0, 40.0, 80.0], "touchy": [0.0, 40.0, 80.0]}
    assert sensitivity.allocate(noise, (0.0, 0.4, 0.8), savings, 80) == {"mild": 0.8, "touchy": 0.0}
    assert sensitivity.allocate(noise, (0.0, 0.4, 0.8), savings, 100) == {"mild": 0.8, "touchy": 0.4}


def test_a_training_that_was_cut_off_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    module, context = build("cifar", "resnet20")
    options = Options(epochs=3, batch_size=4, learning_rate=0.01, augment="crop-flip")
    whole, broken = copy.deepcopy(module), copy.deepcopy(module)
    arguments: dict[str, Any] = {"seed": 0, "report": lambda *_: None}
    train(whole, context.training, options, **arguments)

    def interrupt(stage: str, fraction: float, message: str) -> None:
        if "epoch 3" in message:
            raise KeyboardInterrupt

    resume = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        train(broken, context.training, options, seed=0, report=interrupt, resume=resume)
    again = copy.deepcopy(module)
    train(again, context.training, options, resume=resume, **arguments)
    assert not resume.exists()
    torch.testing.assert_close(again.state_dict(), whole.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("values", [
    {"optimizer": "adamw", "schedule": "cosine", "label_smoothing": 0.1, "augment": "crop"},
    {"schedule": "constant", "momentum": 0.0, "precision": "bf16"},
])  # fmt: skip
def test_every_way_of_training_learns(values: dict[str, Any], digits: tuple[np.ndarray, np.ndarray],
                                      digits_preprocessing: Preprocessing) -> None:  # fmt: skip
    data = Training(images=digits[0][:256], labels=digits[1][:256], preprocessing=digits_preprocessing)
    torch.manual_seed(0)
    module = MODELS.load("digits").build("resnet", None, Files())
    losses = [
        train(module, data, Options(learning_rate=0.01, **values), seed=s, report=lambda *_: None) for s in range(3)
    ]
    assert losses[-1] < losses[0]


def test_half_precision_training_wants_a_gpu() -> None:
    if torch.cuda.is_available():
        return
    module, context = build("cifar", "resnet20")
    with pytest.raises(Refused, match="fp16 needs a GPU"):
        train(module, context.training, Options(precision="fp16"), seed=0, report=lambda *_: None)


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


def test_layers_as_wide_as_the_classifier_are_pruned() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)]
    module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 32)).eval()
    images = np.random.default_rng(0).random((2, 3, 12, 12), np.float32)
    context = Context(seed=0, report=lambda *_: None, classes=32, images=images)
    REMOVAL.prune(module, REMOVAL.Config(amount=0.5, criterion="l2"), context)
    assert [module[0].out_channels, module[2].out_channels, module[6].out_features] == [16, 16, 32]


class Masks:
    """What PyTorch's own tutorial does."""

    def prune(self, module: nn.Module, context: Context) -> None:
        nn.utils.prune.l1_unstructured(module[0], "weight", 0.5)


class Replaces:
    """A factorisation."""

    def prune(self, module: nn.Module, context: Context) -> None:
        module[0] = nn.Sequential(nn.Linear(4, 1), nn.Linear(1, 4))


def test_a_users_pruner_may_leave_masks_but_no_other_modules() -> None:
    context = Context(seed=0, report=lambda *_: None, classes=4, images=np.zeros((2, 4), np.float32))
    module = nn.Sequential(nn.Linear(4, 4))
    _own.run("Masks", Masks(), module, context)
    assert int((module[0].weight == 0).sum()) == 8 and set(module.state_dict()) == {"0.weight", "0.bias"}
    with pytest.raises(Failed, match="Replaces changed the model's parts"):
        _own.run("Replaces", Replaces(), module, context)


def test_attention_of_pytorch_is_counted() -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True).eval()
    macs = statistics.of_module(layer, np.zeros((2, 8, 32), np.float32), 0).macs
    assert macs == 8 * (4 * 32 * 32 + 2 * 32 * 64) + 2 * 8 * 8 * 32


def test_a_layer_that_begins_at_zero_learns_and_momentum_is_what_was_asked_for(
    digits: tuple[np.ndarray, np.ndarray], digits_preprocessing: Preprocessing
) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
    nn.init.zeros_(module[1].weight)
    data = Training(images=digits[0][:256], labels=digits[1][:256], preprocessing=digits_preprocessing)
    train(module, data, Options(epochs=1, learning_rate=0.1), seed=0, report=lambda *_: None)
    assert bool(module[1].weight.any())
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.5, nesterov=True)
    training._schedule(optimizer, Options(momentum=0.5), 10)
    assert optimizer.param_groups[0]["momentum"] == pytest.approx(0.55)
