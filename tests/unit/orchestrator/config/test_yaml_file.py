"""YAML that a person wrote, or somebody hostile: plain values, or one line that says where not."""

from __future__ import annotations

from pathlib import Path

import pytest

from pqbench_orchestrator.config import yaml_file
from pqbench_orchestrator.config.load import load_manifest
from pqbench_orchestrator.config.manifest import Manifest, dump
from pqbench_wire.errors import InvalidInput

# Cases whose mistake only the services or the data can tell.
ONLY_WHEN_PLANNED = {
    "amount-1", "amount-1.5", "batch-65536", "data-not-npz", "long-weights", "missing-data", "missing-weights", "nm-bad",
    "onnx-nofile", "own-code-nofile", "removal-keep", "threads-str", "typo-step-key", "unknown-backend",
    "unknown-dataset", "unknown-model", "unknown-pruner", "unknown-quant", "unknown-torchvision", "weights-typo",
    "wrong-weights",
}  # fmt: skip


def test_every_case_is_one_clear_line_that_names_the_file(shared_cases: Path) -> None:
    files = sorted((shared_cases / "manifests").glob("*.yaml"))
    assert len(files) > 60
    for path in (path for path in files if path.stem not in ONLY_WHEN_PLANNED):
        with pytest.raises(InvalidInput) as caught:
            load_manifest(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 600, message
    for name in ONLY_WHEN_PLANNED:
        assert isinstance(load_manifest(shared_cases / "manifests" / f"{name}.yaml"), Manifest)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 2024-01-01", "a: YAML reads 2024-01-01 as a date; put it in quotes"),
        ("a: {b: [1, !!binary aGk=]}", "a.b.1: YAML reads b'hi' as binary data"),
        ("a: !!set {x, y}", "as a set"),
        ("a: .nan", "a: nan is not a finite number"),
        ("a: {1: x}", "a.1: a key must be text"),
        ("? [a]\n: x", "line 1: a key must be text"),
        ("a: &c [*c]", "line 1, a.0: *c refers to itself"),
        ("a: " + "[" * 40 + "]" * 40, "nested over 32 deep"),
        ('a: "x\\0y"', "a: holds a NUL character"),
        ('"\\ud800": 1', "the key holds half of a surrogate pair"),
        ("a: 99999999999999999999999", "a: a number of over 64 bits"),
        ("a: 1\n---\nb: 2", "line 2: a second document begins"),
        ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("x: 1\nx: 2", "line 2: key 'x' is given twice"),
        ("a: !!int x", "a value does not fit its type"),
        ("a: !!bool 7", "a value does not fit its type"),
        ("a: !!timestamp x", "a value does not fit its type"),
        ("\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 40))]), "nested over 32 deep"),
        ("", "must be a mapping of keys"),
    ],
)
def test_what_is_not_plain_is_named_with_its_place(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInput) as caught:
        yaml_file.read(path)
    assert problem in str(caught.value) and "\n" not in str(caught.value)


def test_aliases_may_be_used_but_not_to_multiply(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}")
    assert yaml_file.read(path) == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    path.write_text("\n".join(["a0: &a0 [x, x]", *levels]))
    with pytest.raises(InvalidInput, match="aliases stand for over 100000 values"):
        yaml_file.read(path)


@pytest.mark.parametrize("name", ["42", "'2024-01-01'", "ümlaut 🐈"])
def test_names_of_digits_and_any_script_are_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + f"name: {name}\nmodels: [{{model: digits/resnet}}]\ndatasets: [{{dataset: digits}}]\n"
                     "recipes: [{}]\ntargets: [{name: t, backend: onnxruntime}]\n".encode())  # fmt: skip
    assert load_manifest(path).name == name.strip("'")


def test_paths_are_told_by_their_type(tmp_path: Path) -> None:
    """An address stays one, an empty text stays empty, a path becomes absolute: by the plug-in's own types."""
    (tmp_path / "own.py").write_text("from pathlib import Path\ndef data(folder: Path, note: str = ''): ...\n")
    path = tmp_path / "m.yaml"
    path.write_text(
        "name: x\nmodels: [{model: digits/resnet}]\nrecipes: [{}]\ntargets: [{name: t, backend: onnxruntime}]\ndatasets:\n"
        "  - {dataset: imagenette, config: {url: 'https://mirror/a.tgz', checksum: 'md5:x/y'}}\n"
        "  - {dataset: folder, config: {test: a, train: ''}}\n"
        "  - {dataset: 'own.py:data', config: {folder: b/c, note: d/e}}\n"
    )
    manifest = load_manifest(path)
    address, folder, own = (dataset.config for dataset in manifest.datasets)
    assert address == {"url": "https://mirror/a.tgz", "checksum": "md5:x/y"}
    assert folder == {"test": str(tmp_path / "a"), "train": ""}
    assert own == {"folder": str(tmp_path / "b/c"), "note": "d/e"}
    path.write_text(dump(manifest))
    assert load_manifest(path) == manifest
