"""A copy of the Compose project in a folder of its own, with a user of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml
from docker.errors import DockerException

from tests.e2e.conftest import ROOT, TINY, pqbench, write_manifest

__all__ = ["pqbench", "write_manifest"]
UID = 23456  # nobody's


@pytest.fixture(scope="session")
def engine() -> Any:
    try:
        client = docker.from_env()
    except DockerException as error:
        pytest.skip(f"skipped: no Docker engine: {error}")
    yield client
    client.close()


class Project:
    """A Compose project."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.experiments = folder / "data/experiments"

    def command(self, *arguments: str, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
        """docker compose ARGUMENTS, as the user of the tests."""
        own = os.environ | {"PQBENCH_UID": str(UID), "PQBENCH_GID": str(UID)} | environment
        command = ["docker", "compose", "--project-name", "pqbench-test", *arguments]
        return subprocess.run(command, cwd=self.folder, env=own, capture_output=True, text=True, timeout=timeout)

    def write(self, name: str, **changes: Any) -> str:
        """A small manifest in the project's folder of manifests; returns its path as Compose takes it."""
        path = self.folder / "data/manifests" / name
        path.write_text(yaml.safe_dump(TINY | changes, sort_keys=False))
        return f"data/manifests/{name}"

    def logs(self, service: str) -> str:
        return self.command("logs", "--no-color", service).stdout

    def wait_for(self, condition: Callable[[], Any], seconds: float, what: str) -> Any:
        """The first true value of `condition`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := condition():
                return found
            time.sleep(0.2)
        raise AssertionError(f"{what} within {seconds:.0f} s; the orchestrator said: {self.logs('orchestrator')}")


@pytest.fixture
def project(engine: Any, tmp_path: Path) -> Iterator[Project]:
    """The project as in the repository; its containers, network and volume are removed afterwards."""
    (tmp_path / "data").mkdir()
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    for name in ("manifests", "inventories"):
        shutil.copytree(ROOT / "data" / name, tmp_path / "data" / name)
    made = Project(tmp_path)
    yield made
    made.command("down", "--volumes", "--timeout", "1")
