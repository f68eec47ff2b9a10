"""Two TensorRT versions side by side through real services: sessions alternate, the report says what an upgrade changes.

The versions are stand-ins; each runs in a service of its own, as it would in its own container.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from .conftest import ROOT, Pqbench

EMULATOR = ROOT / "tests/emulator"
STRONG = {"backend": "tensorrt", "options": {"typing": "strong"}}
TARGETS = [{"name": "trt-10", **STRONG}, {"name": "trt-11", **STRONG}]
RECIPES = [{"name": "baseline"}, {"name": "fp16", "steps": [{"quantize": "fp16"}]}]


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Interpreters that see one version each; the newer runs one layer wider."""
    folder = tmp_path_factory.mktemp("versions")
    library = str(folder / "libcudart.so.13")
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wl,-Bsymbolic", "-o", library, str(EMULATOR / "cudart.c")], check=True)
    places = {}
    for name, more in (
        ("trt-10", "EMULATED_TENSORRT=10.16.1.11"),
        ("trt-11", "EMULATED_TENSORRT=11.4.0.106 EMULATED_FALLBACK=1"),
    ):
        wrapper = folder / name
        seen = f"PYTHONPATH={EMULATOR} LD_LIBRARY_PATH={folder} {more}"
        wrapper.write_text(f'#!/bin/sh\nexec env {seen} {sys.executable} "$@"\n')
        wrapper.chmod(0o755)
        places[name] = {"process": {"python": str(wrapper)}}
    path = folder / "inventory.yaml"
    path.write_text(yaml.safe_dump({"targets": places}))
    return path


@pytest.mark.long
@pytest.mark.alone
def test_two_versions_side_by_side(
    pqbench: Pqbench, write_manifest: Callable[..., Path], inventory: Path, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path, trained=True, targets=TARGETS, recipes=RECIPES, repeats=3)
    done = pqbench("run", manifest, "--data", tmp_path / "data", "--inventory", inventory, "--json")
    assert done.code == 0, done.err
    run = Path(json.loads(done.out)["run"])
    rows = json.loads(done.out)["cells"]
    assert len(rows) == 12 and {row["reason"] for row in rows} == {""}
    assert all(row["device_compute_ms"] > 0 for row in rows)
    powers = [row["device_power_w"] for row in rows if row["device_power_w"] is not None]  # of engines measured alone
    assert powers and powers == pytest.approx([100] * len(powers), rel=0.05)
    with sqlite3.connect(run / "ledger.sqlite") as db:
        order = db.execute("SELECT place FROM steps WHERE kind = 'measure' AND outcome = 'ok' ORDER BY id").fetchall()
    sessions = [place.removeprefix("target ") for (place,) in order][::2]  # two cells in each
    assert sessions == ["trt-10", "trt-11", "trt-11", "trt-10", "trt-10", "trt-11"]

    page = (run / "report.html").read_text()
    assert "trt-10 against trt-11" in page and "1 layers differ" in page
    compared = pqbench("compare", f"{run}:trt-10", f"{run}:trt-11", "--json")
    changes = {change["cell"][2]: change for change in json.loads(compared.out)}
    assert set(changes) == {"baseline", "fp16"}
    for change in changes.values():
        assert (
            change["verdict"] in ("better", "worse", "same")
            and change["ratio_low"] < change["ratio"] < change["ratio_high"]
        )
        assert "one session" not in change["reason"]
    assert changes["fp16"]["layers"][0].endswith("FP16 → FP32") and changes["fp16"]["accuracy_verdict"] == "same"


@pytest.mark.long
@pytest.mark.more
def test_bundles_of_gpu_backends_predict_with_their_library_alone(
    pqbench: Pqbench, write_manifest: Callable[..., Path], inventory: Path, tmp_path: Path
) -> None:
    """On the stand-ins of the libraries; each script checks itself on the engine's outputs for the sample."""
    backends = ("tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx", "pytorch-cuda")
    targets = [{"name": name, "backend": name} for name in backends]
    emulated = yaml.safe_load(inventory.read_text())["targets"]["trt-10"]
    places = tmp_path / "inventory.yaml"
    places.write_text(yaml.safe_dump({"targets": dict.fromkeys(backends, emulated)}))
    manifest = write_manifest(tmp_path, trained=True, targets=targets, recipes=RECIPES)
    done = pqbench("run", manifest, "--data", tmp_path / "data", "--inventory", places, "--json")
    assert done.code == 0, done.err
    run, python = json.loads(done.out)["run"], emulated["process"]["python"]
    for number, cell in enumerate(json.loads(done.out)["cells"]):
        assert cell["outcome"] == "ok", cell["reason"]
        bundle = tmp_path / f"bundle{number}"
        exported = pqbench("export", run, cell["cell"], "--data", tmp_path / "data", "--out", bundle)
        assert exported.code == 0, exported.err
        assert "pqbench" not in (bundle / "predict.py").read_text()
        checked = subprocess.run([python, bundle / "predict.py"], capture_output=True, text=True, timeout=120)
        assert checked.returncode == 0 and "dB from the recorded outputs" in checked.stdout, (cell["target"], checked)
