"""Pruning does what it says on every kind of layer: counted after the fact, zeros that stay, weights that stay shared."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from pqbench.common.v1.common_pb2 import Form, Preprocessing
from pqbench_compressor import checkpoint, finetune, masks, modules, statistics
from pqbench_compressor.plugins import PRUNERS, QUANTIZERS, Context, Source, Training
from pqbench_compressor.pruners import removal
from pqbench_compressor.pruners._importance import gather
from pqbench_compressor.quantizers._narrow import Island, narrowed
from pqbench_compressor.sensitivity import Sensitivity
from pqbench_compressor.training import Options, train
from pqbench_wire.errors import Refused

PREPROCESSING = Preprocessing(height=32, width=32, channels=3, mean=[0.5] * 3, std=[0.25] * 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
DATA = Training(images=IMAGES, labels=np.arange(24) % 10, preprocessing=PREPROCESSING)
TWO = DATA.inputs(slice(2))
CONTEXT = Context(seed=0, report=lambda *_: None, classes=10, images=TWO, training_split=DATA)


def case(folder: Path, file: str, function: str) -> nn.Module:
    spec = importlib.util.spec_from_file_location(file, folder / "modules" / f"{file}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return modules.plain(getattr(module, function)(), TWO[:1], function)


def prune(module: nn.Module, name: str, config: str) -> Any:
    return PRUNERS.load(name).prune(module, PRUNERS.configure(name, config), CONTEXT)


def counted(module: nn.Module) -> tuple[int, int]:
    found = statistics.of_module(module, TWO, 0)
    return found.macs, found.parameters


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
        assert "can be had" in refusal
        with pytest.raises(Refused, match="can be had"):
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


@pytest.mark.parametrize("name", ["l1-unstructured", "l1-global", "random-unstructured", "ln-structured", "nm"])
def test_a_shared_weight_is_pruned_once_and_stays_shared(shared_cases: Path, name: str, tmp_path: Path) -> None:
    module = case(shared_cases, "tied", "tied")
    prune(module, name, "{}" if name == "nm" else '{"amount": 0.5}')
    assert module.a.weight is module.b.weight
    assert float((module.a.weight == 0).float().mean()) == pytest.approx(0.5, abs=0.05)
    (tmp_path / "c").write_bytes(checkpoint.save(module, case(shared_cases, "tied", "tied"), []))
    again = case(shared_cases, "tied", "tied")
    checkpoint.load(tmp_path / "c", again)
    assert again.a.weight is again.b.weight and masks.pruned(again) == masks.pruned(module)
    config = PRUNERS.configure("removal", '{"amount": 0.5}')
    assert "removes no channel" in removal.refusal(module, config, 10, TWO[:1]), "removal would part them"


class Mixed(nn.Module):
    """Attention, recurrence, transposed convolution, and an embedding that nothing prunes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.up = nn.Conv2d(3, 16, 8, 8), nn.ConvTranspose2d(16, 16, 2, 2)
        self.position = nn.Embedding(64, 16)
        self.attention, self.gru = nn.MultiheadAttention(16, 2, batch_first=True), nn.GRU(16, 16, batch_first=True)
        self.f = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(self.patch(x)).flatten(2).transpose(1, 2) + self.position.weight
        x = self.gru(self.attention(x, x, x, need_weights=False)[0])[0]
        return self.f(x.mean(1))


@pytest.mark.parametrize("name", ["l1-unstructured", "nm"])
def test_every_kind_of_weight_is_pruned_or_named(name: str) -> None:
    module = Mixed().eval()
    notes = prune(module, name, "{}" if name == "nm" else '{"amount": 0.5}')
    shares = {n: float((p == 0).float().mean()) for n, p in module.named_parameters() if p.ndim > 1}
    dense = {"position.weight"} | ({"up.weight", "patch.weight"} if name == "nm" else set())
    assert {n for n, share in shares.items() if share == 0} == dense
    assert all(share == pytest.approx(0.5, abs=0.01) for n, share in shares.items() if n not in dense)
    zeros = sum(int((p == 0).sum()) for p in module.parameters()) / sum(p.numel() for p in module.parameters())
    assert notes["left_out"] == ["position.weight"] and notes["zeros_of_all"] == pytest.approx(zeros)


@pytest.mark.parametrize(("file", "function"), [("regrow", "layer"), ("regrow", "conv1d"), ("weightnorm", "ws")])
def test_zeros_stay_zero_in_training_whatever_the_layer(shared_cases: Path, file: str, function: str) -> None:
    module = case(shared_cases, file, function)
    prune(module, "l1-global", '{"amount": 0.6}')
    again = copy.deepcopy(module)
    before = {n: p == 0 for n, p in module.named_parameters() if p.ndim > 1}
    train(again, DATA, Options(epochs=2, batch_size=8, learning_rate=0.1), seed=0, report=lambda *_: None)
    for name, parameter in again.named_parameters():
        if name in before:
            assert bool((parameter[before[name]] == 0).all()), name


def test_zeros_of_attention_recurrence_and_transposed_convolutions_stay_zero_in_fine_tuning(tmp_path: Path) -> None:
    """As in a run: pruned, kept as a checkpoint, and fine-tuned from it."""
    pruned, module = Mixed().eval(), Mixed().eval()
    prune(pruned, "l1-unstructured", '{"amount": 0.5}')
    (tmp_path / "c").write_bytes(checkpoint.save(pruned, Mixed().eval(), []))
    checkpoint.load(tmp_path / "c", module)
    finetune.finetune(module, finetune.Config(batch_size=8, learning_rate=0.1), CONTEXT)
    attention, recurrence = ("in_proj_weight", "out_proj.weight"), ("weight_ih_l0", "weight_hh_l0")
    for name in ("up.weight", *(f"attention.{one}" for one in attention), *(f"gru.{one}" for one in recurrence)):
        before, after = pruned.get_parameter(name), module.get_parameter(name)
        zeros = before == 0
        assert bool(zeros.any()) and bool((after[zeros] == 0).all()), name
        assert float((after != before)[~zeros].float().mean()) > 0.9, f"{name} is trained"


def test_zeros_that_nobody_pruned_may_be_trained() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    with torch.no_grad():
        module[1].weight[:5].zero_()
    train(module, DATA, Options(epochs=2, batch_size=8, learning_rate=0.1), seed=0, report=lambda *_: None)
    assert bool((module[1].weight[:5] != 0).any())


def test_volumes_can_be_trained() -> None:
    """Channels-last is a layout for images; a model may make volumes of them."""
    module = nn.Sequential(
        nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 4, 3, 2, 1), nn.Flatten(), nn.Linear(4 * 2 * 16 * 16, 10)
    )
    loss = train(module, DATA, Options(batch_size=8), seed=0, report=lambda *_: None)
    assert np.isfinite(loss)


def test_figures_of_a_model_with_a_class_token(shared_cases: Path) -> None:
    module = case(shared_cases, "class_token", "net")
    by_hand = 16 * 32 * 3 * 64 + 17 * 32 * 32 + 32 * 10
    assert counted(module)[0] == by_hand and all(parameter.requires_grad for parameter in module.parameters())


class Expression(nn.Module):
    """A value beyond FP16 in an expression, not in a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.f = nn.Conv2d(3, 8, 3), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.f(((self.a(x) * 1e5) / 1e5).mean((2, 3)))


def test_fp16_in_pytorch_sees_overflow_in_expressions() -> None:
    with pytest.raises(Refused, match="in the model's own expressions"):
        narrowed(Expression(), torch.float16, TWO, 32752.0)
    outer = nn.Sequential(Expression(), nn.Linear(10, 10)).eval()
    module, kept = narrowed(outer, torch.float16, TWO, 32752.0)
    assert kept == ["0"] and isinstance(module[0], Island)
    with torch.inference_mode():
        torch.testing.assert_close(module(torch.from_numpy(TWO)), outer(torch.from_numpy(TWO)), rtol=0.02, atol=0.02)


def test_no_plug_in_has_an_option_that_a_manifest_cannot_set() -> None:
    for catalog in (PRUNERS, QUANTIZERS):
        for name in catalog.names:
            assert "method" not in catalog.load(name).Config.__dataclass_fields__, (
                f"{name}: method is the step's own key"
            )


class Kinds(nn.Module):
    """One of each kind of layer that a classifier of pictures can have, two of them with one weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.c3, self.up = nn.Conv3d(1, 16, (3, 4, 4), (1, 4, 4)), nn.ConvTranspose2d(16, 24, 2, 2)
        self.c1, self.a, self.b = nn.Conv1d(24, 16, 4, 4), nn.Linear(16, 16), nn.Linear(16, 16)
        self.b.weight = self.a.weight
        self.f = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> Any:
        y = functional.relu(self.up(functional.relu(self.c3(x[:, None])).squeeze(2)))
        y = functional.relu(self.c1(y.flatten(2))).mean(2)
        return self.f(functional.relu(self.b(functional.relu(self.a(y)))))


def test_sensitivity_leaves_layers_of_every_kind_as_they_were() -> None:
    module = Kinds().eval()
    analysis = Sensitivity(module, CONTEXT, 2)
    before = analysis._run()
    points = analysis.rounding((8, 2))
    assert {point.layer for point in points} == {"c3", "c1", "a", "f"}, "of two layers with one weight the first"
    np.testing.assert_array_equal(analysis._run(), before)
    assert not any(layer._forward_pre_hooks for layer in module.modules())


def test_bits_are_allocated_over_layers_of_every_kind_and_shared_ones_have_the_same() -> None:
    plugin = QUANTIZERS.load("simulated")
    source = Source(onnx=lambda: b"", module=Kinds().eval())
    plugin.quantize(source, plugin.Config(average=5.0, images=2), CONTEXT, (Form.FORM_ONNX,))
    bits = {name: weights for name, (weights, _) in source.notes["bits"].items()}
    assert set(bits) == {"c3", "c1", "a", "b", "f"} and bits["a"] == bits["b"] and bits["c3"] == bits["f"] == 8


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


@pytest.mark.parametrize("name", ["l1-auto", "l1-global"])
def test_what_a_method_does_not_look_at_is_named(name: str) -> None:
    report = prune(Kinds().eval(), name, '{"amount": 0.5}' if name == "l1-global" else '{"amount": 0.5, "images": 2}')
    assert report.get("left_out", []) == (["up.weight"] if name == "l1-auto" else [])
    only = nn.Sequential(nn.ConvTranspose2d(3, 10, 32), nn.Flatten())
    config = PRUNERS.configure(name, '{"amount": 0.5}')
    assert bool(PRUNERS.load(name).refusal(only, config, 10, TWO)) == (name == "l1-auto")
