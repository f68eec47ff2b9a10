"""The manifest: what it accepts, and one clear line for what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from pqbench_orchestrator.config.inventory import Inventory, load_inventory
from pqbench_orchestrator.config.load import load_manifest
from pqbench_orchestrator.config.manifest import dump
from pqbench_orchestrator.config.tensorrt_images import TENSORRT_TAGS, image_with
from pqbench_wire.errors import InvalidInput

GOOD = """
name: test
models:
  - model: digits/resnet
datasets:
  - dataset: digits
recipes:
  - name: baseline
  - steps:
      - prune: {method: l1-global, amount: [0.1, 0.5]}
      - quantize: int8-static
targets:
  - {name: ort, backend: onnxruntime}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "m.yaml"
    path.write_text(text)
    return path


def test_a_list_of_amounts_is_one_recipe_each(tmp_path: Path) -> None:
    manifest = load_manifest(write(tmp_path, GOOD))
    labels = [recipe.label for recipe in manifest.all_recipes]
    assert labels == ["baseline", "l1-global 0.1 + int8-static", "l1-global 0.5 + int8-static"]


def test_a_named_recipe_keeps_its_name_with_each_amount(tmp_path: Path) -> None:
    manifest = load_manifest(write(tmp_path, GOOD.replace("  - steps:", "  - name: both\n    steps:")))
    assert [r.label for r in manifest.all_recipes] == ["baseline", "both 0.1", "both 0.5"]


def test_none_is_no_step(tmp_path: Path) -> None:
    text = GOOD.replace("method: l1-global, amount: [0.1, 0.5]", "method: none")
    assert [len(r.steps) for r in load_manifest(write(tmp_path, text)).all_recipes] == [0, 1]


def test_a_dumped_manifest_reads_back_the_same(tmp_path: Path) -> None:
    manifest = load_manifest(write(tmp_path, GOOD))
    again = load_manifest(write(tmp_path, dump(manifest)))
    assert again == manifest
    assert dump(again) == dump(manifest)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    text = GOOD.replace("model: digits/resnet", "model: nets/own.py:make\n    weights: w/a.pth").replace(
        "dataset: digits", "dataset: cifar10\n    config: {test: x/test.npz}"
    )
    manifest = load_manifest(write(tmp_path, text))
    assert manifest.models[0].model == f"{tmp_path}/nets/own.py:make"
    assert manifest.models[0].weights == f"{tmp_path}/w/a.pth"
    assert manifest.datasets[0].config == {"test": f"{tmp_path}/x/test.npz"}


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("targets:", "tragets:", "unknown key 'tragets'; did you mean 'targets'?"),
        ("model: digits/resnet", "model: own.py", "name the function too, that makes the model: own.py:function"),
        ("backend: onnxruntime", "backend: onnxruntime, optons: {}", "targets.0: unknown key 'optons'; did you mean 'options'?"),
        ("name: test", "name: test\nmeasure: {min_second: 1}", "measure: unknown key 'min_second'; did you mean 'min_seconds'?"),
        ("name: test", "name: test\nmeasure: {min_seconds: 9, max_seconds: 1}", "max_seconds (1) is less than min_seconds (9)"),
        ("quantize: int8-static", "quantise: int8-static", "unknown step 'quantise'; did you mean 'quantize'?"),
        ("quantize: int8-static", "quantize: {images: 3}", "quantize needs a method"),
        ("name: test", "", "name: field required"),
        ("name: test", "name: test\nbatch_sizes: [0]", "batch_sizes.0: input should be greater than or equal to 1, got 0"),
        ("name: test", "name: test\nbatch_sizes: [1, 1]", "batch_sizes: '1' is given twice"),
        ("name: test", "name: test\nname: again", "key 'name' is given twice"),
        ("name: test", "name: [", "not valid YAML"),
        ("  - name: baseline", "  - name: baseline\n  - name: baseline", "recipes: 'baseline' is given twice"),
        ("name: test", "name: test\nbatch_sizes: [true]", "batch_sizes.0: input should be a valid integer, got true"),
        ("name: test", "name: test\nseed: '5'", 'seed: input should be a valid integer, got "5"; write 5, without quotes'),
        ("amount: [0.1, 0.5]", "amount: []", "recipes.1.steps.0: prune.amount: an empty list gives no recipe"),
        ("amount: [0.1, 0.5]", "amount:", "prune.amount must be a number, such as 0.5, or a list of numbers, got null"),
        ("amount: [0.1, 0.5]", "amount: 50%", 'prune.amount must be a number, such as 0.5, or a list of numbers, got "50%"'),
        ("quantize: int8-static", "quantize: 5", "quantize takes a method's name, or a mapping with method, got 5"),
        ("quantize: int8-static", "finetune: 2", "finetune takes a mapping, got 2"),
        ("quantize: int8-static", "quantize: int8-static\n        finetune: {}", "a step has one kind; got quantize, finetune"),
        ("      - quantize: int8-static", "      - finetune", 'a step is a mapping, such as {prune: {…}}, got "finetune"'),
        ("      - prune:", "      - quantize: fp16\n      - prune:", "quantize must be the last step"),
        ("name: baseline", "name: ../x", "a name has"),
        ("name: ort", 'name: ".."', "targets.0.name: a name has 1 to 120 characters, no leading dot"),
        ("model: digits/resnet", "model: /", "models.0.model: a model is family/name"),
        ("name: baseline", "name: baseline\n    step: []", "unknown key 'step'; did you mean 'steps'?"),
    ],
)  # fmt: skip
def test_a_wrong_manifest_is_one_clear_line(tmp_path: Path, before: str, after: str, problem: str) -> None:
    path = write(tmp_path, GOOD.replace(before, after, 1))
    with pytest.raises(InvalidInput) as caught:
        load_manifest(path)
    message = str(caught.value)
    assert problem in message and message.startswith(f"{path}: ") and "\n" not in message


@pytest.mark.parametrize("content", [None, "- a list", ""])
def test_what_is_no_manifest_at_all(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "absent.yaml" if content is None else write(tmp_path, content)
    with pytest.raises(InvalidInput, match="cannot be read|must be a mapping"):
        load_manifest(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("targets: {ortt: process}", "targets: unknown target 'ortt'; did you mean 'ort'?"),
        ("targets: {ort: {endpont: 'x:1'}}", "unknown key 'endpont'; did you mean 'endpoint'?"),
        ("targets: {ort: {endpoint: nowhere}}", "endpoint.address: string should match pattern"),
        ("targets: {ort: {}}", "needs exactly one of: process, endpoint"),
        ("targets: {ort: {docker: {image: x, tensorrt: '10'}}}", "needs exactly one of: image, tensorrt"),
        ("backends: {tensorrt 10: {docker: {tensorrt: '10.5'}}}", "no image is known with TensorRT 10.5, only 8, 8.6"),
    ],
)
def test_a_wrong_inventory_is_one_clear_line(tmp_path: Path, text: str, problem: str) -> None:
    manifest = load_manifest(write(tmp_path, GOOD))
    path = tmp_path / "i.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInput) as caught:
        load_inventory(path, manifest)
    assert problem in str(caught.value) and "\n" not in str(caught.value)


def test_an_endpoint_can_be_written_short(tmp_path: Path) -> None:
    path = tmp_path / "i.yaml"
    path.write_text("compressor: process\ntargets: {ort: {endpoint: '10.0.0.7:50051'}}")
    inventory = load_inventory(path, load_manifest(write(tmp_path, GOOD)))
    assert inventory.targets["ort"].endpoint is not None and inventory.compressor.process is not None
    assert inventory.targets["ort"].endpoint.address == "10.0.0.7:50051"


CONTAINERS = """
targets:
  - {name: ort, backend: onnxruntime, image: "mine:1"}
  - {name: trt-8, backend: tensorrt, tensorrt: "8.6"}
  - {name: trt-10, backend: tensorrt, tensorrt: "10.16"}
  - {name: here, backend: openvino}
"""


def test_a_target_that_names_an_image_runs_in_a_container(tmp_path: Path) -> None:
    """Unless the inventory says where: by the target's name, by its backend with TensorRT's major, by its backend."""
    manifest = load_manifest(write(tmp_path, GOOD.partition("targets:")[0] + CONTAINERS))
    path = tmp_path / "i.yaml"
    path.write_text("""
    targets: {ort: process}
    backends:
      tensorrt 10: {endpoint: '10.0.0.7:1'}
      tensorrt: {docker: {image: ours, gpus: false}}
    """)
    ort, trt8, trt10, here = manifest.targets
    alone, told = Inventory(), load_inventory(path, manifest)
    places = [alone.place_of(target) for target in (ort, trt8, trt10)]
    named = [place.docker for place in places if place and place.docker]
    assert [(place.image, place.tensorrt, place.uses_gpus) for place in named] == [
        ("mine:1", "", False), ("", "8.6", True), ("", "10.16", True)]  # fmt: skip
    assert alone.place_of(here) is None
    by_name, by_backend, by_major = (told.place_of(target) for target in (ort, trt8, trt10))
    assert by_name and by_name.process is not None
    assert (
        by_backend and by_backend.docker and (by_backend.docker.image, by_backend.docker.uses_gpus) == ("ours", False)
    )
    assert by_major and by_major.endpoint and by_major.endpoint.address == "10.0.0.7:1"


def test_every_known_tensorrt_has_an_image() -> None:
    assert {image_with(version).rpartition("-")[2] for version in TENSORRT_TAGS} == set(TENSORRT_TAGS.values())
    assert image_with("10.16") == "pqbench-runtime:tensorrt-26.05"
