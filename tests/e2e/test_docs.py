"""The Python of the docs, and the example for a CI, run as they are written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from .conftest import newest_run, reuse

DOCS = Path(__file__).parents[2] / "docs"


def test_calling_the_services(tmp_path: Path) -> None:
    """docs/grpc.md, all blocks in one process, against services of its own."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", (DOCS / "grpc.md").read_text(), re.DOTALL))
    started = [
        subprocess.Popen([sys.executable, "-m", name, "--data", str(tmp_path)], stdout=subprocess.PIPE)
        for name in ("pqbench_compressor", "pqbench_runtime")
    ]
    try:
        addresses = [json.loads(process.stdout.readline())["listening"] for process in started if process.stdout]
        environment = os.environ | dict(zip(("COMPRESSOR", "RUNTIME"), addresses, strict=True))
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    finally:
        for process in started:
            process.kill()
            process.communicate()
    assert done.returncode == 0, done.stderr
    *_, built, median, shape, classes = [line for line in done.stdout.splitlines() if not line.endswith("%")]
    assert "'INT8': " in built and " as onnxruntime-" in built
    assert median.startswith("median ") and shape == "(128, 10)"
    inferred, predicted = re.findall(r"\[[^]]*\]", classes)
    assert inferred == predicted


@pytest.mark.long
def test_the_notebook_runs_and_is_the_page(tmp_path: Path) -> None:
    """docs/python.ipynb, its code cells in one process; docs/python.md has the same code."""
    cells = json.loads((DOCS / "python.ipynb").read_text())["cells"]
    blocks = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert blocks == [
        block.rstrip("\n") for block in re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(), re.DOTALL)
    ]
    command = [sys.executable, "-c", "\n".join(blocks)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("'ok'") == 4 and "recipe" in done.stdout.splitlines()[1], done.stdout
    assert "stable:" in done.stdout


@pytest.mark.long
def test_the_example_for_github_actions(tmp_path: Path, write_manifest: Callable[..., Path], compressed: Path) -> None:
    """docs/ci.md: the commands of its steps, as a runner calls them, in a folder like the repository's."""
    example = re.search(r"```yaml\n(.*?)```", (DOCS / "ci.md").read_text(), re.DOTALL)
    assert example is not None
    steps = [step["run"] for step in yaml.safe_load(example[1])["jobs"]["compare"]["steps"] if "run" in step]
    setup, run, compare = (step.replace("/srv/pqbench", str(tmp_path / "srv")) for step in steps)
    assert setup == "make setup", "done already"
    (tmp_path / ".venv").symlink_to(sys.prefix)
    reuse(compressed, tmp_path / "srv")
    write_manifest(tmp_path / "experiments").rename(tmp_path / "experiments/gate.yaml")

    def code_of(step: str) -> int:
        seen = os.environ | {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
        return subprocess.run(["bash", "-e", "-c", step], cwd=tmp_path, env=seen, timeout=300).returncode

    assert code_of(run) == 0
    newest_run(tmp_path / "srv").rename(tmp_path / "srv/experiments/gate-reference")
    assert code_of(run) == 0
    assert code_of(compare) in (0, 1, 2), "1: a cell got slower, 2: none could be judged"
    assert "| Cell | Old | New |" in (tmp_path / "summary.md").read_text()
    cases = ElementTree.parse(tmp_path / "pqbench.xml").getroot().findall("testcase")
    assert len(cases) == 2 and all("digits" in str(case.get("name")) for case in cases)
