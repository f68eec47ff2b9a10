"""NVIDIA's images bring Python 3.10 to 3.13: the wire and the runtime work on the oldest and newest that are here."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
UNIT_TESTS = ("tests/unit/wire", "tests/unit/runtime")
# What the wire and an ONNX Runtime service install, and pytest.
INSTALLED = {"grpc", "grpc_health", "grpc_reflection", "numpy", "onnx", "onnxruntime", "psutil", "pydantic", "pytest"}
OURS = {"pqbench", "pqbench_runtime", "pqbench_wire", "tests"}


def _found() -> dict[str, str]:
    """Interpreters by version, on the path or kept by pyenv."""
    kept = Path.home() / ".pyenv" / "versions"
    found = {version: shutil.which(f"python{version}") or "" for version in VERSIONS}
    for version in VERSIONS:
        others = sorted(str(path) for path in kept.glob(f"{version}.*/bin/python"))
        found[version] = next((path for path in (*others, found[version]) if path and _works(path)), "")
    return {version: path for version, path in found.items() if path}


def _works(python: str) -> bool:
    """Whether it starts and can make environments; a shim of a version that is not chosen does not."""
    return subprocess.run([python, "-c", "import venv, ensurepip"], capture_output=True).returncode == 0


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-2000:]}"


def _imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0}


def test_unit_tests_of_the_wire_and_the_runtime_import_what_those_install() -> None:
    found = {
        f"{path}: {name}"
        for folder in UNIT_TESTS
        for path in (ROOT / folder).rglob("*.py")
        for name in _imported(path)
        if name.partition(".")[0] not in INSTALLED | OURS | set(sys.stdlib_module_names)
    }
    assert found == set()


@pytest.mark.long
@pytest.mark.parametrize("end", ["oldest", pytest.param("newest", marks=pytest.mark.more)])
def test_unit_tests_pass_on(end: str, tmp_path: Path) -> None:
    found = _found()
    if len(found) < 2:
        pytest.skip(f"skipped: only these Pythons are here: {', '.join(found) or 'none'}")
    version = sorted(found, key=VERSIONS.index)[0 if end == "oldest" else -1]
    subprocess.run([found[version], "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv/bin/python")
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", "constraints.txt")
    _run(*pip, "./proto", "./services/runtime[onnxruntime]", "pytest", "pytest-timeout")
    _run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *UNIT_TESTS)
