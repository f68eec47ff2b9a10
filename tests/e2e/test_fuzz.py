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
    command = [sys.executable, "-m", "tests.fuzz", target, "--count", str(count), "--corpus", str(tmp_path)]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert f"{target}: {count} inputs in " in done.stdout


def test_the_corpus_grows_and_is_used_again(tmp_path: Path) -> None:
    def fuzz(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tests.fuzz", "ini", "--corpus", str(tmp_path), *options]
        return subprocess.run(
            command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True
        )

    assert fuzz("--count", "150").returncode == 0
    kept = {file.name for file in (tmp_path / "ini").iterdir()}
    assert len(kept) > 3, "one input for each place that refuses one"
    timed = fuzz("--minutes", "0.02", "--seed", "1")
    assert timed.returncode == 0 and "InvalidInput" in timed.stdout
    assert kept <= {file.name for file in (tmp_path / "ini").iterdir()}
    wrong = fuzz("--count", "1", "--minutes", "1")
    assert wrong.returncode == 2 and "not allowed with argument" in wrong.stderr
