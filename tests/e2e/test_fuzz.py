"""2,000 changed inputs for each parser, 500 requests: each is taken or refused with a typed error, in bounded time and memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT

INPUTS = {"requests": 500}  # each is sent to a service; others: 2,000


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "target", ["onnx", "requests", "manifests", "inventories", "checkpoints", "images", "ini", "engines", "pt2"]
)
def test_parsers_refuse_with_typed_errors(target: str, tmp_path: Path) -> None:
    count = INPUTS.get(target, 2000)
    command = [sys.executable, "-m", "tests.fuzz", target, str(count)]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert f"{target}: {count} inputs in " in done.stdout
