"""NVIDIA's real parser and builder: TensorRT for RTX makes plans here, though no GPU can run them."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from .conftest import COMMAND, ROOT, Done, newest_run, rows_of

VERSIONS = ("1.4.0.76", "1.5.0.114", "1.6.1.120", "1.7.1.116")
QUICK = ("1.4.0.76", "1.7.1.116")
NO_DEVICE = "no CUDA device; built for 8.9"
OWN = """
from torch import nn


def mobile():
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1), nn.Hardswish(), nn.Conv2d(32, 32, 3, 1, 1, groups=32), nn.Hardswish(),
        nn.Conv2d(32, 64, 1), nn.Mish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )
"""
SMALL = [
    {"model": "cifar/resnet20", "weights": "none"},
    {"model": "timm/test_vit", "weights": "none"},
    {"model": "own.py:mobile", "weights": "none", "preprocessing": {"height": 32, "width": 32}},
]
METHODS: dict[str, dict[str, Any]] = {
    "baseline": {}, "fp16": {"method": "fp16"}, "bf16": {"method": "bf16"},
    "int8": {"method": "int8-static", "images": 32}, "fp8": {"method": "fp8-static", "images": 32},
    "int4": {"method": "int4-weights"},
}  # fmt: skip
QUANTIZED = ("int8", "fp8", "int4")  # Q/DQ nodes, which 1.4 builds only with a GPU


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with random images and a model; its data folder is shared, so that models are compressed once."""
    found, rng = tmp_path_factory.mktemp("rtx"), np.random.default_rng(0)
    for split, count in (("train", 64), ("test", 16)):
        images = rng.integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
        np.savez(found / f"{split}.npz", images=images, labels=rng.integers(0, 10, count))
    (found / "own.py").write_text(OWN)
    return found


def manifest(folder: Path, name: str, models: list[dict[str, Any]], **changes: Any) -> Path:
    recipes = [{"name": name, **({"steps": [{"quantize": step}]} if step else {})} for name, step in METHODS.items()]
    target = {"name": "rtx", "backend": "tensorrt-rtx", "options": {"compute_capabilities": ["8.9"]}}
    path = folder / f"{name}.yaml"
    chosen = {
        "name": name, "models": models, "recipes": recipes, "targets": [target], "batch_sizes": [8],
        "datasets": [{"dataset": "arrays", "config": {"train": "train.npz", "test": "test.npz"}}],
    }  # fmt: skip
    path.write_text(yaml.safe_dump(chosen | changes, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with the versions of NVIDIA's libraries that were asked for so far."""
    return {}


def library_of(version: str, libraries: dict[str, Path], tmp: pytest.TempPathFactory) -> Path:
    """The folder of one version of NVIDIA's libraries."""
    if version not in libraries:
        libraries[version] = tmp.mktemp(f"rtx-{version}")
        packages = [f"tensorrt-rtx-cu12-{part}=={version}" for part in ("libs", "bindings")]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
        subprocess.run([*pip, "--target", str(libraries[version]), *packages], check=True)
    return libraries[version]


def with_version(version: str, libraries: dict[str, Path], tmp: pytest.TempPathFactory, *arguments: object) -> Done:
    """Run the command line with one version of NVIDIA's libraries before the installed one."""
    environment = os.environ | {"PYTHONPATH": str(library_of(version, libraries, tmp))}
    command = [*COMMAND, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=1700)
    return Done(done.returncode, done.stdout, done.stderr)


def built(version: str, rows: list[dict[str, str]]) -> None:
    """Every cell was built by this version, or refused for a reason that was known before."""
    for row in rows:
        if version.startswith("1.4") and row["Recipe"] in QUANTIZED:
            assert row["Outcome"] == "refused" and "quantized networks only where a GPU is" in row["Reason"], row
        elif row["Outcome"] == "refused":
            assert row["Reason"] == "no matrix product of this model has inputs in multiples of 32", row
        else:
            assert (row["Outcome"], row["Reason"]) == ("unavailable", NO_DEVICE), row
            assert version in row["Versions"] and float(row["Engine (bytes)"]) > 0 < float(row["Build Time (s)"])
            assert row["Executed Precision"].startswith("unknown") and not row["Inference Time (ms)"]


@pytest.mark.parametrize(
    "version", [version if version in QUICK else pytest.param(version, marks=pytest.mark.long) for version in VERSIONS]
)
def test_every_form_is_built_by_nvidias_code_or_refused_before(
    version: str, folder: Path, libraries: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = manifest(folder, "small", SMALL)
    done = with_version(
        version, libraries, tmp_path_factory, "build", file, "--data", folder / "data", "--allow-code", "--json"
    )
    assert done.code == 0 and "Traceback" not in done.err, done.err
    run = Path(json.loads(done.out)["run"])
    rows = rows_of(run)
    built(version, rows)
    assert len(rows) == len(SMALL) * len(METHODS)
    page = (run / "report.html").read_text()
    assert NO_DEVICE in page


def test_a_run_without_the_device_measures_nothing_and_its_plans_are_built_once(
    folder: Path, libraries: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = manifest(folder, "small", SMALL)
    done = with_version(
        VERSIONS[-1], libraries, tmp_path_factory, "run", file, "--data", folder / "data", "--allow-code"
    )
    assert done.code == 1, "nothing was measured"
    assert f"unavailable: {NO_DEVICE}" in done.out and "Traceback" not in done.err, done.err
    run = newest_run(folder / "data")
    with_cached = json.loads((run / "environment.json").read_text())["targets"]["rtx"]
    assert with_cached["versions"]["tensorrt-rtx"] == VERSIONS[-1] and not with_cached["device"]


def test_options_that_a_version_lacks_are_one_line(
    folder: Path, libraries: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    target = {"name": "rtx", "backend": "tensorrt-rtx", "options": {"compute_capabilities": ["12.1"]}}
    file = manifest(folder, "wrong", SMALL[:1], targets=[target])
    done = with_version("1.4.0.76", libraries, tmp_path_factory, "build", file, "--data", folder / "data")
    assert done.code == 2 and "builds for 7.5, 8.0, 8.6, 8.9, 12.0, not 12.1" in done.err.replace("\n", " "), done.err
    assert "targets.0 (rtx)" in done.err and "Traceback" not in done.err


def test_what_a_compute_capability_lacks_is_refused_before_any_work(
    folder: Path, libraries: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    names = ("7.5", "8.6", "12.0")
    targets = [{"name": name, "backend": "tensorrt-rtx", "options": {"compute_capabilities": [name]}} for name in names]
    file = manifest(folder, "old", SMALL[2:], targets=targets)
    done = with_version(
        VERSIONS[-1], libraries, tmp_path_factory, "build", file, "--data", folder / "data", "--allow-code", "--json"
    )
    assert done.code == 0, done.err
    outcomes = {(row["Target"], row["Recipe"]): row["Outcome"] for row in rows_of(Path(json.loads(done.out)["run"]))}
    refused = {pair for pair, outcome in outcomes.items() if outcome == "refused"}
    assert refused == {*(("7.5", name) for name in ("baseline", "bf16", "fp8", "int4")), ("8.6", "fp8")}
    assert set(outcomes.values()) == {"refused", "unavailable"}, "what is left is built"


# What the backend uses of objects, on a GPU too: the class in the bindings -> its members.
USED = {
    "ICudaEngine": ["create_runtime_config", "create_execution_context", "create_engine_inspector", "num_io_tensors"],
    "IRuntimeConfig": [
        "create_runtime_cache", "set_runtime_cache", "cuda_graph_strategy",
        "dynamic_shapes_kernel_specialization_strategy",
    ],
    "IExecutionContext": ["set_input_shape", "infer_shapes", "set_tensor_address", "execute_async_v3", "profiler"],
    "IBuilderConfig": ["num_compute_capabilities", "set_compute_capability", "progress_monitor"],
}  # fmt: skip


@pytest.mark.parametrize(
    "version", [version if version in QUICK else pytest.param(version, marks=pytest.mark.long) for version in VERSIONS]
)
def test_every_name_that_the_backend_uses_is_in_nvidias_bindings(
    version: str, libraries: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = ROOT / "services/runtime/src/pqbench_runtime/backends"
    files = [folder / "tensorrt_rtx.py", *(folder / "_tensorrt").glob("*.py")]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    attributes = [ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)]
    names = {match[1] for text in attributes if (match := re.search(r"\btrt\.(.+)", text))}
    names = {re.sub(r"\.(__init__|name)$", "", name) for name in names} - {"__version__.split"}
    names |= {f"{kind}.{member}" for kind, members in USED.items() for member in members}
    assert len(names) > 30
    code = (
        "import functools, sys, tensorrt_rtx_bindings as trt\n"
        "missing = []\n"
        "for name in sys.argv[1:]:\n"
        "    try: functools.reduce(getattr, name.split('.'), trt)\n"
        "    except AttributeError: missing.append(name)\n"
        "print(trt.__version__, *missing)"
    )
    environment = os.environ | {"PYTHONPATH": str(library_of(version, libraries, tmp_path_factory))}
    done = subprocess.run([sys.executable, "-c", code, *sorted(names)], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == [version], done.stdout + done.stderr
