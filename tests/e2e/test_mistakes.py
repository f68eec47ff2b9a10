"""Mistakes that only services and data can tell, by the command: one line, exit code 2, file, key and recipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Pqbench, Write, newest_run

CASES = {
    "amount-1.5": "recipes.1.steps.0.prune (recipe 'x'): pruner l1-global: amount: input should be less than 1, got 1.5",
    "data-not-npz": "datasets.0 (cifar10): ",
    "long-weights": "models.0: weights: ",
    "missing-data": "datasets.0 (cifar10): there is no file",
    "nm-bad": "recipes.1.steps.0.prune (recipe 'x'): pruner nm: n (4) must be less than m (2)",
    "onnx-nofile": "models.0: model: there is no file",
    "removal-keep": "recipes.1.steps.0.prune (recipe 'x'): keep: no layer matches 'nope*'",
    "threads-str": "targets.0 (ort): backend onnxruntime: threads: input should be a valid integer",
    "typo-step-key": "recipes.1.steps.0.prune (recipe 'x'): pruner l1-global: unknown key 'amout'",
    "unknown-backend": "targets.0 (ort): unknown backend 'onxruntime'; did you mean 'onnxruntime'?",
    "unknown-dataset": "datasets.0 (cifar11): unknown dataset 'cifar11'; did you mean 'cifar10'?",
    "unknown-model": "models.0 (resnet21): unknown model 'cifar/resnet21'",
    "unknown-quant": "recipes.1.steps.0.quantize (recipe 'x'): unknown quantizer 'int8-statc'",
    "weights-typo": "models.0: weights: default, none, or a file; there is no file",
    "wrong-weights": "models.0 (resnet20): weights do not fit: 72 unexpected",
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An inventory of services that run already: starting them is most of the time of a plan."""
    data = tmp_path_factory.mktemp("services")
    options = ("--data", str(data), "--parent", str(os.getpid()))
    commands = {name: [sys.executable, "-m", f"pqbench_{name}", *options] for name in ("compressor", "runtime")}
    processes, addresses = [], {}
    for name, command in commands.items():
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
        assert processes[-1].stdout is not None
        addresses[name] = json.loads(processes[-1].stdout.readline())["listening"]
    path = data / "inventory.yaml"
    path.write_text(
        f"compressor: {{endpoint: '{addresses['compressor']}'}}\ntargets: {{ort: {{endpoint: '{addresses['runtime']}'}}}}"
    )
    yield path
    for process in processes:
        process.terminate()
        process.communicate()


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_one_line(
    shared_cases: Path, shared_data: Path, pqbench: Pqbench, running: Path, tmp_path: Path, name: str
) -> None:
    path = shared_cases / "manifests" / f"{name}.yaml"
    done = pqbench("plan", path, "--data", tmp_path, "--inventory", running)
    assert done.code == 2 and done.err.count("\n") == 1, done.err
    assert done.err.startswith(f"error: {path}: ") and CASES[name] in done.err, done.err


def test_a_run_of_a_wrong_manifest_leaves_no_run(pqbench: Pqbench, write_manifest: Write, tmp_path: Path) -> None:
    manifest = write_manifest(
        tmp_path, recipes=[{"name": "x", "steps": [{"prune": {"method": "l1-globl", "amount": 0.5}}]}]
    )
    done = pqbench("run", manifest, "--data", tmp_path / "data")
    assert done.code == 2 and f"{manifest}: recipes.0.steps.0.prune (recipe 'x'): unknown pruner" in done.err, done.err
    assert not list((tmp_path / "data" / "experiments").iterdir())


OWN = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.f = nn.Conv2d(1, 16, 3, 2, 1), nn.Linear(16, classes)

    def forward(self, x):
        return self.f(self.a(x).relu().mean((2, 3)))


def half():
    return Net().half()


def neighbour():
    import helper


class Half:
    def __init__(self, share):
        self.share = share
"""
IMAGE = {"height": 16, "width": 16, "channels": 1}


@pytest.mark.long
def test_one_model_that_cannot_be_checked_does_not_end_the_plan(
    pqbench: Pqbench, write_manifest: Write, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    models: list[dict[str, Any]] = [
        {"model": f"own.py:{name}", "preprocessing": IMAGE} for name in ("Net", "half", "neighbour")
    ]
    models.append(
        {"model": "own.py:Net", "name": "three", "config": {"arguments": {"classes": 3}}, "preprocessing": IMAGE}
    )
    manifest = write_manifest(tmp_path, models=models)
    done = pqbench("run", manifest, "--data", tmp_path / "data", "--allow-code", "--json")
    assert done.code == 0, done.err
    cells = {(c["model"], c["recipe"]): c for c in json.loads(done.out)["cells"]}
    assert {key for key, cell in cells.items() if cell["outcome"] == "ok"} == {
        ("own.py:Net", r) for r in ("baseline", "int8")
    }
    assert cells["own.py:half", "int8"]["reason"].startswith("its parameters or buffers are float16")
    assert "ModuleNotFoundError" in cells["own.py:neighbour", "baseline"]["reason"]
    assert cells["three", "baseline"]["reason"] == "the model has 3 outputs; dataset digits needs 10"
    alone = write_manifest(tmp_path / "alone", models=[models[1] | {"model": "../own.py:half"}])
    assert pqbench("run", alone, "--data", tmp_path / "data", "--allow-code").code == 1, (
        "nothing that was asked for ran"
    )
    assert newest_run(tmp_path / "data").is_dir()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"models": [{"model": "own.py:Net", "config": {"arguments": {"clases": 3}}, "preprocessing": IMAGE}]},
            "models.0 (own.py:Net): 'Net': got an unexpected keyword argument 'clases'; it takes (classes=10)",
        ),
        (
            {"recipes": [{"name": "x", "steps": [{"prune": {"method": "own.py:Half", "amount": 0.5}}]}]},
            "recipes.0.steps.0.prune (recipe 'x'): 'Half': missing a required argument: 'share'; it takes (share)",
        ),
    ],
)
def test_wrong_arguments_of_own_code_are_one_line(
    changes: dict[str, Any], problem: str, pqbench: Pqbench, write_manifest: Write, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    done = pqbench("plan", write_manifest(tmp_path, **changes), "--data", tmp_path / "data", "--allow-code")
    assert done.code == 2 and problem in done.err and done.err.count("\n") == 1, done.err
