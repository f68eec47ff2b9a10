"""Real runs through real service processes."""

from __future__ import annotations

import csv
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
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
    "try_artifacts": False,  # seconds for each artifact
    "measure": {"warmup_seconds": 0.01, "min_seconds": 0.05, "max_seconds": 0.05, "min_iterations": 6},
}


@dataclass(frozen=True)
class Done:
    """A finished command."""

    code: int
    out: str
    err: str


Pqbench = Callable[..., Done]
Write = Callable[..., Path]


@pytest.fixture(scope="session")
def pqbench() -> Pqbench:
    """Runs the command line in its own process."""

    def run(*arguments: object, timeout: float = 900) -> Done:
        command = [*COMMAND, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=ROOT)
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def write_manifest(request: pytest.FixtureRequest) -> Callable[..., Path]:
    """Writes the tiny manifest with changes into a folder.

    With `trained`, the folder gets a data folder in which the tiny network is trained, exported and quantized already.
    """

    def write(folder: Path, trained: bool = False, **changes: Any) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "manifest.yaml"
        path.write_text(yaml.safe_dump(TINY | changes, sort_keys=False))
        if trained:
            reuse(request.getfixturevalue("compressed"), folder / "data")
        return path

    return write


@pytest.fixture(scope="session")
def compressed(pqbench: Pqbench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with all that the tiny manifest compresses."""
    folder = tmp_path_factory.mktemp("compressed")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    done = pqbench("build", folder / "tiny.yaml", "--data", folder / "data")
    assert done.code == 0, done.err
    return folder / "data"


def reuse(source: Path, target: Path, kinds: tuple[str, ...] = ("prepare", "compress")) -> None:
    """Copy the blobs of another data folder, its checks of recipes, and what it knows of steps of these kinds."""
    shutil.copytree(source / "blobs", target / "blobs")
    shutil.copytree(source / "results/check", target / "results/check")
    shutil.copy(source / "steps.sqlite", target / "steps.sqlite")
    with sqlite3.connect(target / "steps.sqlite") as db:
        db.execute(f"DELETE FROM results WHERE kind NOT IN ({', '.join('?' * len(kinds))})", kinds)
    db.close()


def newest_run(data: Path) -> Path:
    """The folder of the newest run below a data folder."""
    return max((p for p in (data / "experiments").iterdir() if p.is_dir()), key=lambda path: path.stat().st_mtime)


def rows_of(run: Path) -> list[dict[str, str]]:
    """The rows of a run's CSV."""
    with (run / "results.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("skipped: no Chromium (apt install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page and what went wrong on it."""

    page: Any
    problems: list[str]  # console warnings and errors, exceptions, requests that are not to the page's own place

    def close(self) -> None:
        """Close the page; nothing may have gone wrong."""
        assert not self.problems
        self.page.close()


@pytest.fixture(scope="session")
def open_page(chromium: Any) -> Callable[..., Watched]:
    """Opens an address and watches."""

    def open_page(address: str, own: tuple[str, ...] = ("file:", "data:", "blob:"), **options: Any) -> Watched:
        page = chromium.new_page(**({"viewport": {"width": 1280, "height": 900}} | options))
        problems: list[str] = []
        page.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda r: problems.append(r.url) if not r.url.startswith(own) else None)
        page.goto(address)
        return Watched(page, problems)

    return open_page
