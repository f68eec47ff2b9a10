"""Bundles that anyone can deploy: predict.py with the runtime's library alone, for every recipe on every runtime."""

from __future__ import annotations

import ast
import subprocess
import sys
import venv
from pathlib import Path

import minisign
import numpy as np
import pytest
from PIL import Image

from ..conftest import Done, Pqbench, rows_of

LIBRARIES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "pytorch": "torch"}
BESIDE = {"sys", "pathlib", "numpy", "PIL"}


def bundles(run: Path, pqbench: Pqbench, folder: Path, backend: str) -> list[Path]:
    """The bundles of all recipes on one backend."""
    rows = [row for row in rows_of(run) if (row["Backend"], row["Batch Size"], row["Outcome"]) == (backend, "1", "ok")]
    for row in rows:
        done = pqbench("export", run, row["Cell"], "--out", folder / row["Cell"])
        assert done.code == 0, done.err
    return [folder / row["Cell"] for row in rows]


def predict(python: str | Path, bundle: Path, *images: Path) -> Done:
    """Run a bundle's predict.py from another folder."""
    command = [str(python), "-I", str(bundle / "predict.py"), *map(str, images)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    return Done(done.returncode, done.stdout, done.stderr)


def imported(script: Path) -> set[str]:
    """The top-level modules that a script imports."""
    nodes = list(ast.walk(ast.parse(script.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


def environment_with(library: str, folder: Path) -> str:
    """The Python of an environment that has a runtime's library and what reads images; PyTorch takes minutes: ours."""
    if library == "torch":
        return sys.executable
    venv.create(folder, with_pip=True)
    python = str(folder / "bin/python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, library, "numpy", "pillow"], check=True)
    return python


def test_a_signed_bundle_is_verified(quickstart: Path, pqbench: Pqbench, tmp_path: Path) -> None:
    pair, out = minisign.KeyPair.generate(), tmp_path / "bundle"
    for name, key in (("own.key", pair.secret_key), ("own.pub", pair.public_key)):
        (tmp_path / name).write_bytes(bytes(key))
    cell = next(row["Cell"] for row in rows_of(quickstart) if row["Outcome"] == "ok")
    done = pqbench("export", quickstart, cell, "--out", out, "--sign", tmp_path / "own.key")
    assert done.code == 0, done.err
    done = pqbench("verify", out, "--key", tmp_path / "own.pub")
    assert done.code == 0 and f"signed as: pqbench bundle of cell {cell}, run {quickstart.name}" in done.out
    assert "signed, by whom was not checked" in pqbench("verify", out).out
    (out / "model.onnx").write_bytes(b"another")
    done = pqbench("verify", out, "--json")
    assert done.code == 1 and "model.onnx: changed since it was exported" in done.out
    wrong = pqbench("export", quickstart, cell, "--out", tmp_path / "next", "--sign", tmp_path / "own.pub")
    assert wrong.code == 2 and "Traceback" not in wrong.err and not (tmp_path / "next").exists()


@pytest.mark.parametrize("backend", LIBRARIES)
def test_every_bundle_predicts_with_its_runtime_alone(
    backend: str, quickstart: Path, pqbench: Pqbench, tmp_path: Path
) -> None:
    python = environment_with(LIBRARIES[backend], tmp_path / "venv")
    found = bundles(quickstart, pqbench, tmp_path, backend)
    assert len(found) >= 4
    for bundle in found:
        assert imported(bundle / "predict.py") == BESIDE | {LIBRARIES[backend]}
        done = predict(python, bundle)
        assert done.code == 0 and "dB from the recorded outputs" in done.out, done.out + done.err
    sample, labels = np.load(found[0] / "sample.npz"), (found[0] / "labels.txt").read_text().splitlines()
    for name, image in (("a", sample["images"][0]), ("b", sample["images"][1])):
        Image.fromarray(image[..., 0]).save(tmp_path / f"{name}.png")
    done = predict(python, found[0], tmp_path / "a.png", tmp_path / "b.png")
    best = [labels[index] for index in sample["outputs"][:2].argmax(1)]
    assert [line.split()[1] for line in done.out.splitlines()] == best, done.out + done.err


def test_other_outputs_are_noticed(quickstart: Path, pqbench: Pqbench, tmp_path: Path) -> None:
    bundle = bundles(quickstart, pqbench, tmp_path, "onnxruntime")[0]
    sample = dict(np.load(bundle / "sample.npz"))
    np.savez(bundle / "sample.npz", images=sample["images"], outputs=sample["outputs"][::-1])
    assert predict(sys.executable, bundle).code == 1
