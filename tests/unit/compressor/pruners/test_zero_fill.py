"""Pruning by zeros, over every kind of layer and weight."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pqbench_compressor import checkpoint, finetune, masks
from pqbench_compressor.plugins import PRUNERS
from pqbench_compressor.pruners import removal
from pqbench_compressor.training import Options, train

from ..examples import CONTEXT, DATA, TWO, Kinds, case, prune


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


@pytest.mark.parametrize("name", ["l1-auto", "l1-global"])
def test_what_a_method_does_not_look_at_is_named(name: str) -> None:
    report = prune(Kinds().eval(), name, '{"amount": 0.5}' if name == "l1-global" else '{"amount": 0.5, "images": 2}')
    assert report.get("left_out", []) == (["up.weight"] if name == "l1-auto" else [])
    only = nn.Sequential(nn.ConvTranspose2d(3, 10, 32), nn.Flatten())
    config = PRUNERS.configure(name, '{"amount": 0.5}')
    assert bool(PRUNERS.load(name).refusal(only, config, 10, TWO)) == (name == "l1-auto")
