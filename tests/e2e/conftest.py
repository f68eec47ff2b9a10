"""Real runs through real service processes."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "pqbench_orchestrator.cli"]

# Small enough to run in seconds: one short training, two recipes, one target.
TINY: dict[str, Any] = {
    "name": "tiny",
    "models": [{"model": "digits/resnet", "config": {"epochs": 2}}],
    "datasets": [{"dataset": "digits"}],
    "recipes": [
        {"name": "baseline"},
        {"name": "int8", "steps": [{"quantize": {"method": "int8-static", "images": 64}}]},
    ],
    "targets": [{"name": "ort", "backend": "onnxruntime", "options": {"threads": 1}}],
    "batch_sizes": [4],
    "measure": {"warmup_seconds": 0.01, "min_seconds": 0.05, "max_seconds": 0.05, "min_iterations": 6},
}


@dataclass(frozen=True)
class Done:
    """A finished command."""

    code: int
    out: str
    err: str


Pqbench = Callable[..., Done]


@pytest.fixture(scope="session")
def pqbench() -> Pqbench:
    """Runs the command line in its own process."""

    def run(*arguments: object, timeout: float = 900) -> Done:
        command = [*COMMAND, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=ROOT)
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def write_manifest() -> Callable[..., Path]:
    """Writes the tiny manifest with changes into a folder."""

    def write(folder: Path, **changes: Any) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "manifest.yaml"
        path.write_text(yaml.safe_dump(TINY | changes, sort_keys=False))
        return path

    return write


def newest_run(data: Path) -> Path:
    """The folder of the newest run below a data folder."""
    return max((p for p in (data / "experiments").iterdir() if p.is_dir()), key=lambda path: path.stat().st_mtime)


def rows_of(run: Path) -> list[dict[str, str]]:
    """The rows of a run's CSV."""
    with (run / "results.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def quickstart(pqbench: Pqbench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole quickstart, from nothing: its run's folder."""
    data = tmp_path_factory.mktemp("quickstart")
    done = pqbench("run", ROOT / "data/manifests/quickstart.yaml", "--data", data, "--json")
    assert done.code == 0, done.err
    return Path(json.loads(done.out)["run"])
