"""Models that are no image classifiers: several inputs, several outputs, a user's own data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from .conftest import Pqbench

Write = Callable[..., Path]
OWN = '''
import numpy as np
import torch
from torch import nn


class Encoder(nn.Module):
    """A small text encoder: tokens and a mask in, hidden states and a pooled vector out."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(100, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, tokens, mask):
        hidden = self.layers(self.embed(tokens), src_key_padding_mask=~mask)
        weights = mask[..., None].float()
        return {"hidden": hidden, "pooled": (hidden * weights).sum(1) / weights.sum(1)}


def sentences(length=12):
    rng = np.random.default_rng(0)

    def split(count):
        mask = np.arange(length) < rng.integers(4, length + 1, count)[:, None]
        return {"tokens": rng.integers(0, 100, (count, length)), "mask": mask}, None

    return {"test": split(20), "train": split(40)}


class Pyramid(nn.Module):
    """Feature maps of two sizes, as a detector's backbone gives them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1)

    def forward(self, image):
        fine = torch.relu(self.first(image))
        return {"fine": fine, "coarse": torch.relu(self.second(fine))}


def pictures():
    rng = np.random.default_rng(0)
    return {name: (rng.integers(0, 256, (8, 24, 24, 3), dtype=np.uint8), np.zeros(8, int)) for name in ("test", "train")}
'''
INPUTS = {"tokens": {"dtype": "int64", "shape": [12]}, "mask": {"dtype": "bool", "shape": [12]}}
INT8 = {"quantize": {"method": "int8-static", "images": 8}}
METRICS = ["top1", "agreement", "sqnr", "cosine"]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with the user's file."""
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


@pytest.mark.long
def test_several_inputs_and_outputs_are_compared_with_the_baseline(
    own: Path, pqbench: Pqbench, write_manifest: Write
) -> None:
    from pqbench_compressor import export
    from pqbench_wire.shared.inputs import Inputs

    scope: dict[str, Callable[..., object]] = {}
    exec(OWN, scope)
    sample = {"tokens": np.ones((2, 12), np.int64), "mask": np.ones((2, 12), bool)}
    (own / "encoder.onnx").write_bytes(export.to_onnx(scope["Encoder"](), Inputs(sample)))  # type: ignore[arg-type]
    manifest = write_manifest(
        own,
        models=[{"model": "own.py:Encoder", "inputs": INPUTS}, {"model": "encoder.onnx"}],
        datasets=[{"dataset": "own.py:sentences"}],
        recipes=[
            {"name": "fp32"},
            {"name": "zeros", "steps": [{"prune": {"method": "l1-global", "amount": 0.5}}]},
            {"name": "tune", "steps": [{"finetune": {}}]},
            {"name": "int8", "steps": [INT8]},
        ],
        targets=[{"name": name, "backend": name} for name in ("onnxruntime", "openvino", "pytorch")],
        metrics=METRICS,
    )
    done = pqbench("run", manifest, "--data", own / "data", "--allow-code", "--json")
    assert done.code == 0, done.err
    cells = {(c["model"], c["recipe"], c["backend"]): c for c in json.loads(done.out)["cells"]}
    ran = {key: cell for key, cell in cells.items() if cell["outcome"] == "ok"}
    backends = ("onnxruntime", "openvino")
    assert set(ran) >= {("own.py:Encoder", "zeros", b) for b in (*backends, "pytorch")}
    assert set(ran) >= {(m, "int8", b) for m in ("own.py:Encoder", "encoder.onnx") for b in backends}
    assert all(
        c["accuracy_top1_percent"] is None and c["metric_agreement_percent"] is None and c["median_ms"] > 0
        for c in ran.values()
    )
    for (_, recipe, _), cell in ran.items():
        least = {"fp32": 0.99999, "zeros": 0.8, "int8": 0.999}[recipe]
        assert least < cell["metric_cosine_similarity"] < 1.00001, (recipe, cell["metric_cosine_similarity"])
    own_int8, file_int8 = (ran[m, "int8", "onnxruntime"]["metric_sqnr_db"] for m in ("own.py:Encoder", "encoder.onnx"))
    assert own_int8 == pytest.approx(file_int8, abs=1)
    bundle = (
        "export",
        json.loads(done.out)["run"],
        ran["own.py:Encoder", "int8", "openvino"]["cell"],
        "--out",
        own / "b",
    )
    assert pqbench(*bundle).code == 0
    assert "inputs `tokens` int64 [batch, 12], `mask` bool [batch, 12]" in (own / "b" / "model_card.md").read_text()
    assert set(np.load(own / "b" / "sample.npz")) == {"tokens", "mask", "outputs"}
    reasons = {key[:2]: cell["reason"] for key, cell in cells.items() if cell["outcome"] != "ok"}
    assert reasons["own.py:Encoder", "tune"] == "finetune needs an image classifier; this model takes tokens, mask"
    assert "an ONNX file can be quantized, not pruned" in reasons["encoder.onnx", "zeros"]


@pytest.mark.long
def test_several_outputs_of_an_image_are_not_scored_as_classes(
    own: Path, pqbench: Pqbench, write_manifest: Write
) -> None:
    manifest = write_manifest(
        own,
        models=[
            {"model": "own.py:Pyramid", "preprocessing": {"height": 24, "width": 24, "mean": [0.5], "std": [0.25]}}
        ],
        datasets=[{"dataset": "own.py:pictures"}],
        recipes=[{"name": "int8", "steps": [INT8]}, {"name": "tune", "steps": [{"finetune": {}}]}],
        metrics=METRICS,
    )
    done = pqbench("run", manifest, "--data", own / "data", "--allow-code", "--json")
    assert done.code == 0, done.err
    int8, tune = json.loads(done.out)["cells"]
    assert int8["outcome"] == "ok" and int8["metric_cosine_similarity"] > 0.99
    assert int8["accuracy_top1_percent"] is None and int8["metric_agreement_percent"] is None
    assert tune["reason"] == "finetune needs a classifier; this model does not return one tensor [N, classes]"
    assert pqbench("export", json.loads(done.out)["run"], int8["cell"], "--out", own / "bundle").code == 0


@pytest.mark.parametrize(
    ("change", "flags", "problem"),
    [
        ({}, (), "models.0 (own.py:Encoder) is your own code: allow it with --allow-code"),
        ({"datasets": [{"dataset": "code", "config": {"function": "own.py:sentences"}}]}, (), "allow it with --allow-code"),
        ({"datasets": [{"dataset": "own.py:sentence"}]}, ("--allow-code",), "has no class or function 'sentence'"),
        ({"datasets": [{"dataset": "no.py:x"}]}, ("--allow-code",), "there is no file"),
        ({"datasets": [{"dataset": "own.py:Pyramid"}]}, ("--allow-code",), 'must return {"test": (data, labels)'),
        ({"datasets": [{"dataset": "own.py:sentences", "config": {"size": 3}}]}, ("--allow-code",), "unexpected keyword"),
        ({"models": [{"model": "own.py:Encoder", "inputs": {"tokens": {"dtype": "text"}}}]}, (), "models.0.inputs.tokens.dtype"),
        ({"models": [{"model": "own.py:Encoder"}]}, ("--allow-code",), "its input is not known; give preprocessing"),
    ],
)  # fmt: skip
def test_a_wrong_dataset_or_input_is_one_line(
    own: Path, pqbench: Pqbench, write_manifest: Write, change: dict[str, object], flags: tuple[str, ...], problem: str
) -> None:
    values = {"models": [{"model": "own.py:Encoder", "inputs": INPUTS}], "datasets": [{"dataset": "own.py:sentences"}]}
    done = pqbench("plan", write_manifest(own, **values | change), "--data", own / "data", *flags)
    assert done.code == 2 and problem in done.err and done.err.count("\n") == 1, done.err


def test_data_that_do_not_suit_the_model_are_refused(own: Path, pqbench: Pqbench, write_manifest: Write) -> None:
    longer = {"dataset": "own.py:sentences", "name": "longer", "config": {"length": 16}}
    manifest = write_manifest(
        own,
        models=[{"model": "own.py:Encoder", "inputs": INPUTS}],
        datasets=[longer, {"dataset": "digits"}],
        recipes=[{}],
    )
    done = pqbench("plan", manifest, "--data", own / "data", "--allow-code", "--json")
    assert done.code == 0, done.err
    assert "takes tokens int64 [12], mask bool [12]; dataset longer has tokens int64 [16], mask bool [16]" in done.out
    assert "dataset digits has images" in done.out
