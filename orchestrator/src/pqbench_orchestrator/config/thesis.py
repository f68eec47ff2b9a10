"""Reads the config.ini of "the thesis", the master thesis tool PQ Bench, as a manifest: same names, same grid."""

from __future__ import annotations

import configparser
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pqbench_orchestrator.config.manifest import Manifest
from pqbench_wire.catalog import first_problem, unknown
from pqbench_wire.errors import InvalidInput

MODELS = ("alexnet", "densenet", "googlenet", "resnet", "inceptionv3", "mobilenetv2", "shufflenetv2", "simplenet",
          "squeezenet", "visiontransformer")  # fmt: skip
DATASETS = ("imagenet1000", "imagenette", "imagewoof")
ZERO_FILL = {
    "random": "random-unstructured", "lnstructured": "ln-structured", "l1unstructured": "l1-unstructured",
    "l1unstructuredglobal": "l1-global",
}  # fmt: skip
REMOVAL = {"random": "random", "weight": "l1", "sensitivity": "sensitivity", "taylor": "taylor"}  # pruner -> criterion
QUANTIZERS = {"int8": "int8-static", "fp16": "fp16", "base": "none"}
SECTIONS: dict[str, tuple[str, ...]] = {
    "PARAMETERS": ("batchsizes", "iterations"),
    "MODELS": MODELS,
    "DATASETS": DATASETS,
    "PRUNING": ("degrees",),
    "PRUNERS": tuple(ZERO_FILL),
    "LN_PRUNING": ("dim", "n"),
    "REMOVAL_PRUNERS": tuple(REMOVAL),
    "QUANTIZING": tuple(QUANTIZERS),
    "FILEFOLDERS": ("trt_caches", "experiments"),
}
UNPRUNED = "unpruned"
PYTORCH = "pytorch"


@dataclass(frozen=True, kw_only=True)
class ThesisTarget:
    """Where a config.ini runs, and how its "int8" is made there; what is not quantized runs in PyTorch beside it."""

    backend: str = "onnxruntime"
    int8: str = "int8-static"
    pytorch: str = "pytorch"  # PyTorch's backend


ON_CPU = ThesisTarget()
BACKENDS = ("tensorrt", "onnxruntime-tensorrt", "onnxruntime-cuda", ON_CPU.backend)  # the best first


def is_thesis_config(path: Path) -> bool:
    """Whether a file is a config.ini of the thesis, by its suffix."""
    return path.suffix.lower() == ".ini"


def load_ini(path: Path, target: ThesisTarget = ON_CPU) -> Manifest:
    """The experiment of a config.ini. Raises InvalidInput with file, section and key.

    As in the thesis, models that are not quantized are measured in PyTorch, and quantization, alone or after pruning,
    on `target`; the quantizer `base` is the target in FP32.
    """
    values = _read(path)
    recipes = [_recipe(pruning, quantizer, path, target) for pruning in _prunings(values, path)
               for quantizer in (None, *_on(values, "QUANTIZING"))]  # fmt: skip
    manifest = {
        "name": path.stem,
        "models": [{"model": name} for name in _on(values, "MODELS")],
        "datasets": [{"dataset": name} for name in _on(values, "DATASETS")],
        "recipes": recipes,
        "targets": [{"name": PYTORCH, "backend": target.pytorch}, {"name": target.backend, "backend": target.backend}],
        "batch_sizes": _value(values, path, "PARAMETERS", "batchsizes"),
        "repeats": _value(values, path, "PARAMETERS", "iterations"),
    }
    for key in ("models", "datasets"):
        if not manifest[key]:
            raise InvalidInput(f"{path}: {key.upper()}: nothing is switched on: set at least one to 1")
    try:
        return Manifest.model_validate(manifest)
    except ValidationError as error:
        raise InvalidInput(f"{path}: {first_problem(error).replace('value error, ', '')}") from error


def _recipe(
    pruning: tuple[str, dict[str, Any]] | None, quantizer: str | None, path: Path, target: ThesisTarget
) -> dict[str, Any]:
    steps: list[dict[str, Any]] = []
    label = UNPRUNED
    if pruning is not None:
        label, prune = pruning
        steps.append({"prune": prune})
    if quantizer is not None:
        label += f" + {quantizer}"
        method = target.int8 if quantizer == "int8" else QUANTIZERS[quantizer]
        if method != "none":
            steps.append({"quantize": {"method": method}})
    return {"name": label, "steps": steps, "targets": [PYTORCH if quantizer is None else target.backend]}


def _prunings(values: configparser.ConfigParser, path: Path) -> list[tuple[str, dict[str, Any]] | None]:
    """Label and prune step for each pruner and degree; the first item, None, stands for the unpruned model."""
    degrees = _value(values, path, "PRUNING", "degrees")
    if not isinstance(degrees, list) or not all(isinstance(degree, (int, float)) for degree in degrees):
        raise InvalidInput(f"{path}: PRUNING: degrees: a list of numbers is expected, like [0, 0.5]")
    prunings: list[tuple[str, dict[str, Any]] | None] = [None]
    for degree in (degree for degree in degrees if degree):
        for name in _on(values, "PRUNERS"):
            step = {"method": ZERO_FILL[name], "amount": degree}
            if name == "lnstructured":
                step |= {key: _value(values, path, "LN_PRUNING", key) for key in ("dim", "n")}
            prunings.append((f"{name} {degree:g}", step))
        for name in _on(values, "REMOVAL_PRUNERS"):
            prunings.append(
                (f"removal-{name} {degree:g}", {"method": "removal", "criterion": REMOVAL[name], "amount": degree})
            )
    return prunings


def _read(path: Path) -> configparser.ConfigParser:
    values = configparser.ConfigParser(interpolation=None)
    try:
        values.read_string(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise InvalidInput(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    for section in values.sections():
        if section not in SECTIONS:
            raise InvalidInput(f"{path}: {unknown('section', section, list(SECTIONS))}")
        for key in values[section]:
            if key not in SECTIONS[section]:
                raise InvalidInput(f"{path}: {section}: {unknown('key', key, SECTIONS[section])}")
            if section in ("MODELS", "DATASETS", "PRUNERS", "REMOVAL_PRUNERS", "QUANTIZING"):
                _switch(values, path, section, key)
    return values


def _switch(values: configparser.ConfigParser, path: Path, section: str, key: str) -> bool:
    if values[section][key].strip() not in ("0", "1"):
        raise InvalidInput(f"{path}: {section}: {key} must be 0 or 1, got {values[section][key]!r}")
    return values[section][key].strip() == "1"


def _on(values: configparser.ConfigParser, section: str) -> list[str]:
    return [key for key in values[section] if values[section][key].strip() == "1"] if section in values else []


def _value(values: configparser.ConfigParser, path: Path, section: str, key: str) -> Any:
    """The value of a key, read as JSON: a number or a list of numbers. Raises InvalidInput."""
    if not values.has_option(section, key):
        raise InvalidInput(f"{path}: {section}: {key} is missing")
    try:
        return json.loads(values[section][key])
    except ValueError as error:
        raise InvalidInput(f"{path}: {section}: {key}: not a number or list: {values[section][key]!r}") from error
