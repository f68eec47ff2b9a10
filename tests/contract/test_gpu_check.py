"""make gpu-check against the stand-ins: it goes through all there is, and a wrong output is its exit code."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from pqbench.common.v1.common_pb2 import Form

SCRIPT = Path(__file__).parents[2] / "benchmarks/gpu_check.py"


def run(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        str(SCRIPT),
        "--seconds",
        "0.02",
        "--batches",
        "2",
        "--precisions",
        "tf32",
        "--out",
        str(out),
    ]
    return subprocess.run([*command, *arguments], capture_output=True, text=True)


@pytest.mark.long
def test_everything_that_is_there_is_checked(use: Any, tmp_path: Path) -> None:
    use()
    done = run(tmp_path / "r.json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "r.json").read_text())
    names = [check["name"] for check in found["checks"] if check["outcome"] == "ok"]
    assert [name.partition(" FP32")[0] for name in names if name.startswith("backend")] == [
        "backend pytorch-cuda", "backend onnxruntime-cuda", "backend onnxruntime-tensorrt",
        "backend onnxruntime-tensorrt-rtx", "backend tensorrt",
    ]  # fmt: skip
    assert "pytorch tf32 graph, batch 2" in names and found["environment"]["compute_capability"] == "sm_90"


@pytest.mark.long
def test_an_unexpected_error_loses_nothing_and_a_wrong_output_is_told(use: Any, tmp_path: Path) -> None:
    use(EMULATED_BROKEN="onnxruntime", EMULATED_WRONG="1")
    done = run(tmp_path / "r.json")
    found = {check["name"]: check for check in json.loads((tmp_path / "r.json").read_text())["checks"]}
    assert done.returncode == 1 and "what came back is not what was sent" in done.stdout
    broken = found["backend onnxruntime-cuda FP32, batch 2"]
    assert broken["outcome"] == "error" and "ZeroDivisionError" in broken["traceback"]
    assert found["backend tensorrt FP32, batch 2"]["outcome"] == "ok", "checked after it"


def test_the_network_for_tensorrt_8_6_is_in_an_opset_that_it_reads() -> None:
    check = runpy.run_path(str(SCRIPT), run_name="gpu_check")
    model = onnx.load_from_string(check["exported"](torch, Form.FORM_ONNX_UNTYPED))
    assert [one.version for one in model.opset_import if one.domain == ""] == [17]


def test_without_a_gpu_one_line_says_so(tmp_path: Path) -> None:
    done = run(tmp_path / "r.json")
    assert done.returncode == 2 and done.stderr.startswith("gpu-check: no GPU can be used: "), done.stderr
    assert not (tmp_path / "r.json").exists()
