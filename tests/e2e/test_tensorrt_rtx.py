"""NVIDIA's real parser and builder: TensorRT for RTX makes plans here, though no GPU can run them."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pqbench_runtime.backend import ENGINE
from pqbench_runtime.backends._tensorrt.script import scripts
from tests.bindings import names_used

from .conftest import COMMAND, ROOT, Done, newest_run, rows_of

sys.path.insert(0, str(ROOT / "benchmarks"))
import rtx_plans

Library = Callable[[str], Path]
VERSIONS = tuple(reversed(rtx_plans.VERSIONS))
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
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Gives the folder of a version of NVIDIA's libraries, which is installed when it is first asked for."""

    @functools.cache
    def install(version: str) -> Path:
        folder = tmp_path_factory.mktemp(f"rtx-{version}")
        rtx_plans.install(version, folder)
        return folder

    return install


def with_library(library: Path, *arguments: object) -> Done:
    """Run the command line with one version of NVIDIA's libraries before the installed one."""
    environment = os.environ | {"PYTHONPATH": str(library)}
    command = [*COMMAND, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=1700)
    return Done(done.returncode, done.stdout, done.stderr)


def built(version: str, rows: list[dict[str, str]]) -> None:
    """Every cell was built by this version, or refused for a reason that was known before."""
    for row in rows:
        if version.startswith("1.4") and row["Recipe"] in QUANTIZED:
            assert row["Outcome"] == "refused" and "quantized networks only where a GPU is" in row["Reason"], row
        elif row["Outcome"] == "refused":
            assert row["Reason"] == "no matrix product of this model has inputs in multiples of 64", row
        else:
            assert (row["Outcome"], row["Reason"]) == ("unavailable", NO_DEVICE), row
            assert version in row["Versions"] and float(row["Engine (bytes)"]) > 0 < float(row["Build Time (s)"])
            assert row["Executed Precision"].startswith("unknown") and not row["Inference Time (ms)"]


@pytest.mark.parametrize("version", [pytest.param(QUICK[0], marks=pytest.mark.long), QUICK[1]])
def test_every_form_is_built_by_nvidias_code_or_refused_before(version: str, folder: Path, library: Library) -> None:
    file = manifest(folder, "small", SMALL)
    done = with_library(library(version), "build", file, "--data", folder / "data", "--allow-code", "--json")
    assert done.code == 0 and "Traceback" not in done.err, done.err
    run = Path(json.loads(done.out)["run"])
    rows = rows_of(run)
    built(version, rows)
    assert len(rows) == len(SMALL) * len(METHODS)
    page = (run / "report.html").read_text()
    assert NO_DEVICE in page
    if not version.startswith("1.4"):
        decided(run, rows)


def decided(run: Path, rows: list[dict[str, str]]) -> None:
    """What the commands that decide make of engines that were only built."""
    smallest = subprocess.run([*COMMAND, "recommend", run, "--minimize", "size"], capture_output=True, text=True)
    assert smallest.returncode == 1, "nothing is proven"
    assert re.search(r"Smallest: (bf|fp)16 on rtx: 1\.\d+ MB", smallest.stdout), smallest.stdout
    assert "pqbench export" not in smallest.stdout
    assert f"not measured ({NO_DEVICE}): its times and accuracy are not known" in smallest.stdout
    fastest = subprocess.run([*COMMAND, "recommend", run], capture_output=True, text=True)
    assert fastest.returncode == 2 and "only built are compared by --minimize size" in fastest.stderr.replace("\n", " ")
    cell = next(row["Cell"] for row in rows if (row["Model"], row["Recipe"]) == ("resnet20", "int8"))
    why = subprocess.run([*COMMAND, "why", run, cell], capture_output=True, text=True)
    said = " ".join(why.stdout.split())
    assert why.returncode == 0 and "Its engine was built and not measured" in said, why.stderr
    assert "kernels: 18 for as many quantized convolutions, about 2.4 MB of the plan" in said


def test_a_run_without_the_device_measures_nothing_and_uses_the_engines_of_a_build(
    folder: Path, library: Library
) -> None:
    file, data = manifest(folder, "reused", SMALL[:1]), folder / "data"
    assert with_library(library(VERSIONS[-1]), "build", file, "--data", data).code == 0
    planned = json.loads(with_library(library(VERSIONS[-1]), "plan", file, "--data", data, "--json").out)
    assert {step["state"] for step in planned["steps"] if step["kind"] == "build"} == {"cached"}
    done = with_library(library(VERSIONS[-1]), "run", file, "--data", data)
    assert done.code == 1, "nothing was measured"
    assert f"unavailable: {NO_DEVICE}" in done.out and "Traceback" not in done.err, done.err
    target = json.loads((newest_run(data) / "environment.json").read_text())["targets"]["rtx"]
    assert target["versions"]["tensorrt-rtx"] == VERSIONS[-1] and not target["device"]


def test_options_that_a_version_lacks_are_one_line(folder: Path, library: Library) -> None:
    target = {"name": "rtx", "backend": "tensorrt-rtx", "options": {"compute_capabilities": ["12.1"]}}
    file = manifest(folder, "wrong", SMALL[:1], targets=[target])
    done = with_library(library("1.4.0.76"), "build", file, "--data", folder / "data")
    assert done.code == 2 and "builds for 7.5, 8.0, 8.6, 8.9, 12.0, not 12.1" in done.err.replace("\n", " "), done.err
    assert "targets.0 (rtx)" in done.err and "Traceback" not in done.err


@pytest.mark.long
def test_what_a_compute_capability_lacks_is_refused_before_any_work(folder: Path, library: Library) -> None:
    names = ("7.5", "8.6", "12.0")
    targets = [{"name": name, "backend": "tensorrt-rtx", "options": {"compute_capabilities": [name]}} for name in names]
    file = manifest(folder, "old", SMALL[2:], targets=targets)
    done = with_library(library(VERSIONS[-1]), "build", file, "--data", folder / "data", "--allow-code", "--json")
    assert done.code == 0, done.err
    outcomes = {(row["Target"], row["Recipe"]): row["Outcome"] for row in rows_of(Path(json.loads(done.out)["run"]))}
    refused = {pair for pair, outcome in outcomes.items() if outcome == "refused"}
    assert refused == {*(("7.5", name) for name in ("baseline", "bf16", "fp8", "int4")), ("8.6", "fp8")}
    assert set(outcomes.values()) == {"refused", "unavailable"}, "what is left is built"


def test_blocks_that_tensorrt_does_not_document_are_refused_while_planning(folder: Path, library: Library) -> None:
    steps = [{"quantize": {"method": "int4-weights", "block": 32}}]
    file = manifest(folder, "blocks", SMALL[:1], recipes=[{"name": "int4", "steps": steps}])
    done = with_library(library(VERSIONS[-1]), "plan", file, "--data", folder / "data", "--json")
    cells = [cell for cell in json.loads(done.out)["cells"] if cell["recipe"] == "int4"]
    assert {cell["outcome"] for cell in cells} == {"refused"}
    assert all(cell["reason"].endswith("TensorRT takes blocks of 64 or 128 weights, not 32") for cell in cells), cells


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
    version: str, library: Library, tmp_path: Path
) -> None:
    folder, script = ROOT / "services/runtime/src/pqbench_runtime/backends", tmp_path / "predict.py"
    script.write_text(scripts("tensorrt_rtx_bindings", host_code=False)[ENGINE])
    files = [folder / "tensorrt_rtx.py", *(folder / "_tensorrt").glob("*.py"), script]
    names = {name.removesuffix(".name") for name in names_used(files)} - {"__version__.split"}
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
    environment = os.environ | {"PYTHONPATH": str(library(version))}
    done = subprocess.run([sys.executable, "-c", code, *sorted(names)], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == [version], done.stdout + done.stderr
