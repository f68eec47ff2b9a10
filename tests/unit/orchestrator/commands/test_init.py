"""Manifests that `pqbench init` writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pqbench_orchestrator.commands import init
from pqbench_orchestrator.commands.schema import schema
from pqbench_orchestrator.config.load import load_manifest
from pqbench_wire.errors import InvalidInput

CONFIG = Path(__file__).parents[3] / "data/config.ini"


CHOICES = init.Choices(model="digits/resnet", dataset="digits", targets=["onnxruntime", "openvino"])


@pytest.mark.parametrize("goal", init.GOALS)
@pytest.mark.parametrize("model", ["digits/resnet", "own.py:net", "model.onnx"])
def test_a_manifest_for_each_goal_and_kind_of_model_loads(goal: str, model: str, tmp_path: Path) -> None:
    for name in ("own.py", "model.onnx"):
        (tmp_path / name).touch()
    out = tmp_path / "m.yaml"
    init.write(
        init.text_of(replace(CHOICES, goal=goal, model=str(tmp_path / model) if "." in model else model), tmp_path), out
    )
    manifest = load_manifest(out)
    assert manifest.recipes[0].label == "baseline" and len(manifest.recipes) >= 4
    assert manifest.goal.minimize == ("size" if goal == "size" else "latency")
    assert [target.backend for target in manifest.targets] == ["onnxruntime", "openvino"]
    pruned = any(step.kind == "prune" for recipe in manifest.recipes for step in recipe.steps)
    assert not pruned or not model.endswith(".onnx"), "an ONNX file can only be quantized"
    jsonschema.validate(yaml.safe_load(out.read_text()), schema("manifest"))


def test_a_folder_of_images_is_a_dataset(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / "images" / split / "cat").mkdir(parents=True)
    out = tmp_path / "m.yaml"
    init.write(init.text_of(replace(CHOICES, dataset=str(tmp_path / "images")), tmp_path), out)
    assert 'train: "images/train", test: "images/val"' in out.read_text()
    flat = init.text_of(replace(CHOICES, dataset=str(tmp_path / "images/val")), tmp_path)
    assert 'config: {test: "images/val"}' in flat and "add train: FOLDER" in flat


def test_odd_names_survive(tmp_path: Path) -> None:
    folder = tmp_path / "cats, dogs} and: others"
    (folder / "test" / "cat").mkdir(parents=True)
    out = tmp_path / "m.yaml"
    init.write(init.text_of(replace(CHOICES, dataset=str(folder)), tmp_path), out)
    assert load_manifest(out).datasets[0].config["test"] == str(folder / "test")
    (folder / "test").rename(folder / "train")
    with pytest.raises(InvalidInput, match="has a folder train and no test"):
        init.text_of(replace(CHOICES, dataset=str(folder)), tmp_path)


def test_the_thesis_config_is_translated(tmp_path: Path) -> None:
    out = tmp_path / "m.yaml"
    init.write(init.from_ini(CONFIG), out)
    with pytest.raises(InvalidInput, match=r"m\.yaml is no config\.ini of the thesis"):
        init.from_ini(out)
    assert load_manifest(out).batch_sizes == (8, 16) and "null" not in out.read_text()


def test_what_is_wrong_is_one_line_and_nothing_is_overwritten(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="--goal: unknown goal 'sped'"):
        init.text_of(replace(CHOICES, goal="sped"), tmp_path)
    out = tmp_path / "m.yaml"
    out.write_text("mine")
    with pytest.raises(InvalidInput, match="exists: name another file with --out"):
        init.write(init.text_of(CHOICES, tmp_path), out)
    with pytest.raises(InvalidInput):
        init.write("name: [", tmp_path / "broken.yaml")
    assert out.read_text() == "mine" and [path.name for path in tmp_path.iterdir()] == ["m.yaml"]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"model": "nothing.py:net"}, "--model: there is no file nothing.py"),
        ({"model": "nothing.onnx"}, "--model: there is no file nothing.onnx"),
        ({"model": "own.py"}, "--model: name the function too, as own.py:function"),
        ({"weights": "nothing.pth"}, "--weights: there is no file nothing.pth"),
        ({"dataset": "nothing.py:images"}, "--dataset: there is no file nothing.py"),
        ({"dataset": "digit"}, "--dataset: unknown dataset 'digit'; did you mean 'digits'"),
        ({"targets": ["onnxruntme"]}, "--target: unknown backend 'onnxruntme'; did you mean 'onnxruntime'"),
        ({"model": "digits/resnt"}, "--model: unknown model 'digits/resnt'; did you mean 'digits/resnet'"),
    ],
)
def test_what_is_not_there_is_said_before_anything_is_written(
    choice: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").touch()
    with pytest.raises(InvalidInput) as found:
        init.check(replace(CHOICES, **choice))
    assert str(found.value).startswith(message)


def test_known_names_and_files_that_are_there_pass(tmp_path: Path) -> None:
    init.check(CHOICES)
    (tmp_path / "own.py").touch()
    init.check(replace(CHOICES, model=f"{tmp_path}/own.py:net", dataset=str(tmp_path)))
