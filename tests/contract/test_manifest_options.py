"""Every option of every plug-in can be set from a manifest, and arrives as it was written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from pqbench_compressor import finetune, recalibrate
from pqbench_compressor.plugins import MODELS, PRUNERS, QUANTIZERS
from pqbench_orchestrator.dataset import DATASETS
from pqbench_orchestrator.manifest import load_manifest
from pqbench_orchestrator.survey import step_message
from pqbench_runtime.backend import BACKENDS
from pqbench_wire.catalog import parse_config

OWN = ("code", "object")  # named by their file: their arguments are the user's
STEPS = [("prune", name) for name in PRUNERS.names if name not in OWN]
STEPS += [("quantize", name) for name in QUANTIZERS.names if name not in OWN]
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
        if "enum" in option:
            found[name] = option["enum"][-1]
        elif option.get("type") == "boolean":
            found[name] = not default
        elif option.get("type") in ("integer", "number"):
            found[name] = number_of(option, default)
        elif option.get("type") == "array":
            found[name] = [1, 2, 3] if "prefixItems" in option else ["layer1.*"]
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
        values["heads"], values["target"] = "channels", "macs"  # whole heads go with channels alone
    assert "method" not in values, "the step's own key"
    manifest = manifest_with(tmp_path, recipes=[{"steps": [{kind: {"method": name} | values}]}])
    message = step_message(manifest.all_recipes[0].steps[0])
    assert message.plugin == name
    check(catalog.configure(name, message.config_json), values)


@pytest.mark.parametrize(("kind", "plugin"), [("finetune", finetune), ("recalibrate", recalibrate)])
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


def test_every_option_of_tensorrt(use: Any) -> None:
    """In a process of its own that sees the stand-in, where the library is not installed."""
    use()
    test = f"{__file__}::test_every_option_of_a_target[tensorrt]"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr


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
