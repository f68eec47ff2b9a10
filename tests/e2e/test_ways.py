"""The other ways in: endpoints that share nothing, own code, ONNX files, subsets of outputs, bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from .conftest import COMMAND, ROOT, TINY, Pqbench, newest_run, rows_of

Write = Callable[..., Path]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Starts a service with a data folder of its own; returns its address."""
    processes = []

    def run(module: str, *flags: str) -> str:
        folder = tmp_path / f"service-{len(processes)}"
        command = [sys.executable, "-m", module, "--data", str(folder), *flags]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        processes.append(process)
        assert process.stdout is not None
        return str(json.loads(process.stdout.readline())["listening"])

    yield run
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.long
def test_endpoints_that_share_no_folder(
    tmp_path: Path, pqbench: Pqbench, write_manifest: Write, start: Callable[..., str]
) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret")
    compressor = start("pqbench_compressor", "--token-file", str(token))
    inventory = {
        "compressor": {"endpoint": {"address": compressor, "token_file": str(token)}},
        "targets": {"ort": {"endpoint": start("pqbench_runtime")}},
    }
    (tmp_path / "inventory.yaml").write_text(yaml.safe_dump(inventory))
    manifest = write_manifest(tmp_path)
    arguments = ("run", manifest, "--data", tmp_path / "own", "--inventory", tmp_path / "inventory.yaml", "--json")
    done = pqbench(*arguments)
    assert done.code == 0, done.err
    cells = json.loads(done.out)["cells"]
    assert [cell["outcome"] for cell in cells] == ["ok", "ok"] and cells[0]["accuracy_top1_percent"] > 90
    again = pqbench(*arguments)  # the services are still up: pqbench did not start them
    assert again.code == 0, again.err


@pytest.mark.long
def test_an_endpoint_that_is_not_there_is_unavailable_not_lost(
    tmp_path: Path, pqbench: Pqbench, write_manifest: Write
) -> None:
    (tmp_path / "i.yaml").write_text("targets: {ort: {endpoint: '127.0.0.1:1'}}")
    done = pqbench("run", write_manifest(tmp_path), "--data", tmp_path / "data", "--inventory", tmp_path / "i.yaml")
    assert done.code == 1, done.err
    rows = rows_of(newest_run(tmp_path / "data"))
    assert [row["Outcome"] for row in rows] == ["unavailable"] * 2
    assert "no service answered at 127.0.0.1:1" in rows[0]["Reason"]


OWN_MODEL = """
import torch
from torch import nn

def network(width):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 12))
"""


@pytest.mark.long
def test_own_code_on_a_folder_scored_on_a_subset_of_outputs(
    tmp_path: Path, pqbench: Pqbench, write_manifest: Write
) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(8):
                Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(
                    tmp_path / split / name / f"{i}.png"
                )
    (tmp_path / "own.py").write_text(OWN_MODEL)
    manifest = write_manifest(
        tmp_path,
        models=[{"model": "own.py:network", "config": {"arguments": {"width": 8}},
                 "preprocessing": {"height": 16, "width": 16, "resize": 18}}],
        datasets=[{"dataset": "folder", "config": {"test": "test", "train": "train", "outputs": {"cat": 3, "dog": 11}}}],
        recipes=[{"name": "baseline"}, {"steps": [{"prune": {"method": "l1-unstructured", "amount": [0.2, 0.4]}}]}],
        targets=[*TINY["targets"], {"name": "torch", "backend": "pytorch"}],
    )  # fmt: skip
    denied = pqbench("run", manifest, "--data", tmp_path / "data")
    assert denied.code == 2 and "--allow-code" in denied.err
    done = pqbench("run", manifest, "--data", tmp_path / "data2", "--allow-code")
    assert done.code == 0, done.out + done.err
    rows = rows_of(newest_run(tmp_path / "data2"))
    assert [row["Outcome"] for row in rows] == ["ok"] * 6
    assert {row["Amount"] for row in rows} == {"-", "0.2", "0.4"}
    assert {row["Scored Images"] for row in rows} == {"16"} and rows[0]["Top-5 (%)"] == ""


def test_an_existing_onnx_file(tmp_path: Path, pqbench: Pqbench, write_manifest: Write) -> None:
    from pqbench_compressor import export
    from pqbench_compressor.plugins import MODELS, Files

    module = MODELS.load("digits").build("resnet", None, Files())
    (tmp_path / "net.onnx").write_bytes(export.to_onnx(module, np.zeros((2, 1, 16, 16), np.float32)))
    manifest = write_manifest(
        tmp_path,
        models=[{"model": "net.onnx", "preprocessing": {"height": 16, "width": 16, "channels": 1}}],
        recipes=[*TINY["recipes"], {"name": "pruned", "steps": [{"prune": {"method": "l1-global", "amount": 0.5}}]}],
        targets=[*TINY["targets"], {"name": "torch", "backend": "pytorch"}],
    )
    done = pqbench("run", manifest, "--data", tmp_path / "data")
    assert done.code == 0, done.out + done.err
    outcomes = {
        (row["Recipe"], row["Target"]): (row["Outcome"], row["Reason"])
        for row in rows_of(newest_run(tmp_path / "data"))
    }
    assert outcomes["baseline", "ort"] == outcomes["int8", "ort"] == ("ok", "")
    assert outcomes["pruned", "ort"] == ("refused", "an ONNX file can be quantized, not pruned or fine-tuned")
    assert outcomes["baseline", "torch"][0] == "refused" and "PT2" in outcomes["baseline", "torch"][1]


@pytest.mark.parametrize("command", [["list", "models"], ["schema", "manifest"], ["--version"]])
def test_a_reader_that_stops_early_is_no_error(command: list[str]) -> None:
    """As in `pqbench … | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*COMMAND, *command], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"models": [{"model": "digit/resnet"}]}, "unknown family 'digit'; did you mean 'digits'?"),
        pytest.param({"models": [{"model": "digits/resnt"}]}, "unknown model 'digits/resnt'; did you mean 'digits/resnet'?", marks=pytest.mark.long),
        ({"models": [{"model": "resnett"}]}, "unknown model 'resnett'; did you mean 'resnet'?"),
        ({"models": [{"model": "digits/resnet", "weights": "no.pth"}]}, "there is no file"),
        pytest.param({"models": [{"model": "digits/resnet", "config": {"epoch": 1}}]}, "unknown key 'epoch'; did you mean 'epochs'?", marks=pytest.mark.long),
        ({"datasets": [{"dataset": "digit"}]}, "unknown dataset 'digit'; did you mean 'digits'?"),
        ({"targets": [{"name": "a", "backend": "onnxrt"}]}, "targets.0 (a): unknown backend 'onnxrt'; did you mean 'onnxruntime'?"),
        pytest.param({"targets": [{"name": "a", "backend": "onnxruntime", "options": {"thread": 1}}]}, "did you mean 'threads'?", marks=pytest.mark.long),
        pytest.param({"recipes": [{"steps": [{"quantize": "int8-st"}]}]}, "unknown quantizer 'int8-st'; did you mean 'int8-static'?", marks=pytest.mark.long),
        pytest.param({"recipes": [{"steps": [{"prune": {"method": "removal", "amount": 2}}]}]}, "amount: input should be less than 1, got 2", marks=pytest.mark.long),
        ({"metrics": ["top2"]}, "unknown metric 'top2'"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path, pqbench: Pqbench, write_manifest: Write, change: dict[str, object], problem: str
) -> None:
    done = pqbench("plan", write_manifest(tmp_path, **change), "--data", tmp_path / "data")
    assert done.code == 2, done.err
    assert problem in done.err and done.err.startswith("error: ") and done.err.count("\n") == 1
    assert "Traceback" not in done.err + done.out


@pytest.mark.parametrize(
    "change",
    [{"models": [{"model": "own.py:net"}]},
     {"recipes": [{"name": "mine", "steps": [{"prune": {"method": "own.py:Pruner"}}]}]}],
)  # fmt: skip
def test_own_code_that_is_not_allowed_is_refused_before_any_run(
    tmp_path: Path, pqbench: Pqbench, write_manifest: Write, change: dict[str, object]
) -> None:
    done = pqbench("run", write_manifest(tmp_path, **change), "--data", tmp_path / "data")
    assert done.code == 2, done.err
    assert "is your own code: allow it with --allow-code" in done.err and done.err.startswith("error: ")
    assert not list((tmp_path / "data/experiments").glob("*/*")), "no run is left"


@pytest.mark.parametrize(
    "arguments",
    [("run", "absent.yaml"), ("run", "absent.yaml", "--continue"), ("report", "absent"), ("list", "modules"),
     ("run", "README.md"), ("nonsense",), ("run",), ("run", "x.yaml", "--no-such-option")],
)  # fmt: skip
def test_bad_commands_exit_with_2(pqbench: Pqbench, arguments: tuple[str, ...]) -> None:
    done = pqbench(*arguments)
    assert done.code == 2, done
    assert done.err.strip() and "Traceback" not in done.err


@pytest.mark.long
def test_an_interrupt_keeps_what_is_finished(tmp_path: Path, pqbench: Pqbench, write_manifest: Write) -> None:
    measure = TINY["measure"] | {"min_seconds": 20, "max_seconds": 20}
    manifest = write_manifest(tmp_path, trained=True, measure=measure)
    process = subprocess.Popen(
        [*COMMAND, "run", str(manifest), "--data", str(tmp_path / "data")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list((tmp_path / "data").glob("results/predict/*")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    time.sleep(1.5)
    os.kill(process.pid, signal.SIGINT)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 130, err
    assert "Traceback" not in err and "pqbench run --continue" in err
    run = newest_run(tmp_path / "data")
    rows = rows_of(run)
    assert len(rows) == 2 and all(float(row["Accuracy"]) > 90 for row in rows)
    assert {row["Outcome"] for row in rows} == {"unavailable"} and "--continue" in rows[0]["Reason"]
    assert (run / "report.html").is_file()


@pytest.mark.long
def test_lists_and_doctor(pqbench: Pqbench) -> None:
    names = {kind: [e["name"] for e in json.loads(pqbench("list", kind, "--json").out)]
             for kind in ("models", "datasets", "pruners", "quantizers", "backends")}  # fmt: skip
    assert {"digits/resnet", "cifar/resnet56", "torchvision/resnet18", "timm/vit_tiny_patch16_224"} <= set(
        names["models"]
    )
    assert {"digits", "cifar10", "folder"} <= set(names["datasets"])
    assert {"l1-global", "removal"} <= set(names["pruners"]) and {"int8-static", "fp16"} <= set(names["quantizers"])
    here = {"onnxruntime", "openvino", "pytorch"}
    elsewhere = {"tensorrt", "tensorrt-rtx", "pytorch-cuda"}
    elsewhere |= {"onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx"}
    assert set(names["backends"]) == here | elsewhere
    facts = json.loads(pqbench("doctor", "--json").out)
    assert {name for name in here if facts["backends"][name] == "available"} == here
    assert facts["backends"]["tensorrt"] in ("available", "missing: pip install tensorrt")
    assert facts["backends"]["tensorrt-rtx"].startswith(("available", "missing: no CUDA device; it builds for 8.6"))
    assert facts["versions"]["torch"] and "free" in facts["disk"]
