"""Checkpoints and PyTorch's weight files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from pqbench_compressor import checkpoint, export, weights
from pqbench_compressor.plugins import MODELS, PRUNERS, Context, Files
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import InvalidInput

from .examples import network


def test_a_pruned_checkpoint_loads_strictly_and_computes_the_same(store: BlobStore, context: Context) -> None:
    module = network()
    config = PRUNERS.configure("removal", '{"amount": 0.5}')
    notes = PRUNERS.load("removal").prune(module, config, context)
    assert 0.2 < notes["macs_left"] < 0.4
    history = [{"kind": "prune", "plugin": "removal", "config": {"amount": 0.5}}]
    data = checkpoint.save(module, network(), history)
    assert data == checkpoint.save(module, network(), history)
    back = network()
    assert checkpoint.load(store.path(store.put(data)), back) == history
    np.testing.assert_array_equal(export.run_module(back, context.example), export.run_module(module, context.example))


def test_weights_that_do_not_fit_are_one_clear_line(tmp_path: Path) -> None:
    state = network().state_dict()
    state.pop("0.weight")
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(InvalidInput, match=r"weights do not fit: 1 missing \(0.weight\)") as caught:
        weights.load(tmp_path / "w.safetensors", network())
    assert "\n" not in str(caught.value)


def test_pth_files_load_without_pickle(tmp_path: Path) -> None:
    state = {"state_dict": {f"module.{k}": v for k, v in network().state_dict().items()}}
    torch.save(state, tmp_path / "w.pth")
    other = MODELS.load("digits").build("resnet", None, Files())
    assert weights.load(tmp_path / "w.pth", other) == ""
    torch.testing.assert_close(other.state_dict(), network().state_dict())
    torch.save(network(), tmp_path / "evil.pth")
    with pytest.raises(InvalidInput, match="holds Python objects, as torch.save.model. writes them") as caught:
        weights.load(tmp_path / "evil.pth", other)
    assert "weights_only" not in str(caught.value) and "\n" not in str(caught.value)
