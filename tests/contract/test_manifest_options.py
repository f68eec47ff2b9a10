"""Every option of every plug-in can be set from a manifest, and arrives as it was written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import TypeAdapter

from pqbench_compressor import compensate, finetune, recalibrate
from pqbench_compressor.loading import Loader
from pqbench_compressor.plugins import MODELS, PRUNERS, QUANTIZERS, Files
from pqbench_compressor.steps import read
from pqbench_orchestrator.cli import app
from pqbench_orchestrator.config.load import load_manifest
from pqbench_orchestrator.dataset import DATASETS
from pqbench_orchestrator.planning.survey import model_message
from pqbench_orchestrator.steps.compress import step_message
from pqbench_runtime.backend import BACKENDS
from pqbench_wire.blobs import BlobStore
from pqbench_wire.catalog import parse_config

OWN = ("code", "object")  # named by their file: their arguments are the user's
STEPS = [("prune", name) for name in PRUNERS.names if name not in OWN]
STEPS += [("quantize", name) for name in QUANTIZERS.names if name not in OWN]
COMMITTED = sorted((Path(__file__).parents[2] / "data/manifests").rglob("*.yaml"))
BASE: dict[str, Any] = {
    "name": "m", "models": [{"model": "digits/resnet"}], "datasets": [{"dataset": "digits"}], "recipes": [{}],
    "targets": [{"name": "t", "backend": "onnxruntime"}],
}  # fmt: skip


def values_of(config: type) -> dict[str, Any]:
    """A value for every option that is not its default where another can be told from its schema."""
    schema = TypeAdapter(config).json_schema()
    found = {}
    for name, option in schema.get("properties", {}).items():
        choices = option.get("anyOf", [option])
        option = option | next((one for one in choices if one.get("type") != "null"), {})
        default = option.get("default")
        if "const" in option:
            found[name] = option["const"]
        elif "enum" in option:
            found[name] = option["enum"][-1]
        elif option.get("type") == "boolean":
            found[name] = not default
        elif option.get("type") in ("integer", "number"):
            found[name] = number_of(option, default)
        elif option.get("type") == "array":
            elements = option.get("items", {})
            found[name] = [1, 2, 3] if "prefixItems" in option else elements.get("enum", ["layer1.*"])[-1:]
        elif option.get("type") == "object":
            found[name] = {"key": 1}
        else:
            found[name] = default or "some/text"
    return found


def number_of(option: dict[str, Any], default: float | None) -> float:
    """A number within the option's bounds that is not its default."""
    step = option.get("multipleOf", 1 if option["type"] == "integer" else 0.25)
    low = option.get("minimum", option.get("exclusiveMinimum", 0))
    first = low if "minimum" in option else low + step
    found = next(value for value in (first, first + step, first + 2 * step) if value != default)
    assert found <= option.get("maximum", option.get("exclusiveMaximum", found + 1)), option
    return found


def manifest_with(folder: Path, **changes: Any) -> Any:
    path = folder / "m.yaml"
    path.write_text(yaml.safe_dump(BASE | changes, sort_keys=False))
    return load_manifest(path)


def check(config: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        got = getattr(config, name)
        assert (list(got) if isinstance(got, tuple) else got) == value, name


@pytest.mark.parametrize(("kind", "name"), STEPS)
def test_every_option_of_a_step(tmp_path: Path, kind: str, name: str) -> None:
    catalog = {"prune": PRUNERS, "quantize": QUANTIZERS}[kind]
    if catalog.missing(name):
        pytest.skip(f"skipped: {catalog.missing(name)}")
    values = values_of(catalog.load(name).Config)
    if name == "removal":
        values["heads"], values["target"] = "channels", "latency"  # whole heads go with channels alone
    assert "method" not in values, "the step's own key"
    manifest = manifest_with(tmp_path, recipes=[{"steps": [{kind: {"method": name} | values}]}])
    message = step_message(manifest.all_recipes[0].steps[0])
    assert message.plugin == name
    check(catalog.configure(name, message.config_json), values)


@pytest.mark.parametrize(
    ("kind", "plugin"), [("finetune", finetune), ("recalibrate", recalibrate), ("compensate", compensate)]
)
def test_every_option_of_recovery(tmp_path: Path, kind: str, plugin: Any) -> None:
    values = values_of(plugin.Config)
    message = step_message(manifest_with(tmp_path, recipes=[{"steps": [{kind: values}]}]).all_recipes[0].steps[0])
    check(parse_config(plugin.Config, message.config_json, kind), values)


@pytest.mark.parametrize("name", BACKENDS.names)
def test_every_option_of_a_target(tmp_path: Path, name: str) -> None:
    if BACKENDS.missing(name):
        pytest.skip(f"skipped: {BACKENDS.missing(name)}")
    values = values_of(BACKENDS.load(name).Config)
    target = manifest_with(tmp_path, targets=[{"name": "t", "backend": name, "options": values}]).targets[0]
    check(BACKENDS.configure(name, json.dumps(target.options)), values)


@pytest.mark.parametrize("name", [name for name in DATASETS.names if name not in OWN])
def test_every_option_of_a_dataset(tmp_path: Path, name: str) -> None:
    values = values_of(DATASETS.load(name).Config)
    config = manifest_with(tmp_path, datasets=[{"dataset": name, "config": values}]).datasets[0].config
    parsed = DATASETS.configure(name, json.dumps(config))
    for key, value in values.items():
        assert str(getattr(parsed, key)).endswith(str(value)), "paths are made absolute"


@pytest.mark.parametrize("name", [name for name in MODELS.names if name not in (*OWN, "onnx")])
def test_every_option_of_a_model(tmp_path: Path, name: str) -> None:
    if MODELS.missing(name):
        pytest.skip(f"skipped: {MODELS.missing(name)}")
    values = values_of(MODELS.load(name).Config)
    config = manifest_with(tmp_path, models=[{"model": f"{name}/x", "config": values}]).models[0].config
    check(MODELS.configure(name, json.dumps(config)), values)


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An inventory of both services, which run already: starting them takes seconds."""
    data = tmp_path_factory.mktemp("services")
    (data / "token").write_text("secret")
    options = ("--data", str(data), "--token-file", str(data / "token"), "--parent", str(os.getpid()))
    commands = [[sys.executable, "-m", f"pqbench_{name}", *options] for name in ("compressor", "runtime")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for command in commands]
    places = []
    for process in processes:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["listening"]
        places.append({"endpoint": {"address": address, "token_file": str(data / "token")}})
    path = data / "inventory.yaml"
    path.write_text(yaml.safe_dump({"compressor": places[0], "targets": {"ort": places[1]}}))
    yield path
    for process in processes:
        process.terminate()
        process.communicate()


MISTAKES = {
    "amount-1": "recipes.1.steps.0.prune (recipe 'x'): pruner l1-global: amount: input should be less than 1, got 1",
    "missing-weights": "models.0: weights: default, none, or a file; there is no file {manifests}/../../data/nope.safetensors",
    "own-code-nofile": "models.0: model: there is no file {manifests}/nope.py",
    "unknown-pruner": "recipes.1.steps.0.prune (recipe 'x'): unknown pruner 'l1-globl'; did you mean 'l1-global'?",
    "unknown-torchvision": "models.0 (resnet19): unknown model 'torchvision/resnet19'; did you mean 'torchvision/resnet18'?",
}


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_that_planning_finds_is_one_line_and_leaves_no_run(
    shared_cases: Path, shared_data: Path, inventory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    command: str, name: str,
) -> None:  # fmt: skip
    path = shared_cases / "manifests" / f"{name}.yaml"
    with pytest.raises(SystemExit) as caught:
        app([command, str(path), "--data", str(tmp_path), "--inventory", str(inventory)])
    assert caught.value.code == 2
    *before, last = capsys.readouterr().err.splitlines()
    assert last == f"error: {path}: {MISTAKES[name].format(manifests=path.parent)}"
    assert command == "run" or not before, "a run says before what it is at"
    assert not list(tmp_path.glob("experiments/*"))


def test_a_step_of_a_file_that_does_not_exist_is_one_line(
    inventory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = [{"prune": {"method": "nope.py:Mine", "amount": 0.5}}]
    path = tmp_path / "m.yaml"
    changes = {"recipes": [{"name": "x", "steps": steps}], "targets": [{"name": "ort", "backend": "onnxruntime"}]}
    path.write_text(yaml.safe_dump(BASE | changes))
    with pytest.raises(SystemExit) as caught:
        app(["plan", str(path), "--data", str(tmp_path / "data"), "--inventory", str(inventory)])
    assert caught.value.code == 2
    said = f"recipes.0.steps.0.prune (recipe 'x'): method: there is no file {tmp_path}/nope.py"
    assert capsys.readouterr().err == f"error: {path}: {said}\n"


@pytest.mark.parametrize(("key", "value"), [("", 1.0), ("model_ema", 2.0)])
def test_the_key_of_a_models_weights_arrives(tmp_path: Path, store: BlobStore, key: str, value: float) -> None:
    """Of a file with several state dicts, the one that the manifest names is loaded; else the usual one."""
    state = MODELS.load("digits").build("resnet", None, Files()).state_dict()
    ones, twos = ({name: torch.full_like(one, fill) for name, one in state.items()} for fill in (1, 2))
    torch.save({"state_dict": ones, "model_ema": twos}, tmp_path / "w.pth")
    chosen = {"weights_key": key} if key else {}
    manifest = manifest_with(tmp_path, models=[{"model": "digits/resnet", "weights": "w.pth"} | chosen])
    message = model_message(manifest.models[0], store)
    loaded, note = Loader(store=store, allow_code=False).with_weights(message)
    assert {float(parameter.detach().mean()) for parameter in loaded.parameters()} == {value}
    assert ("model_ema (weights_key)" in note) == (not key), "what was left is said where nothing was chosen"


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_manifests_name_plug_ins_and_their_options(path: Path) -> None:
    manifest = load_manifest(path)
    for step in (step for recipe in manifest.all_recipes for step in recipe.steps):
        read(step_message(step), lambda *_: pytest.fail("no manifest here needs a user's own file"))
    for target in manifest.targets:
        if not BACKENDS.missing(target.backend):
            BACKENDS.configure(target.backend, json.dumps(target.options))
    assert all(target.backend in BACKENDS.names for target in manifest.targets)
    assert all(one.dataset in DATASETS.names for one in manifest.datasets)
    models = {name for family in MODELS.names for name in MODELS.load(family).names()}
    assert all(one.model.rpartition("/")[2] in models for one in manifest.models)
