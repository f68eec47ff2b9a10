"""The thesis' config.ini, a user's own pruner, sensitivity, bundles: each through real services."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from pqbench.common.v1.common_pb2 import Images, Preprocessing
from pqbench.runtime.v1 import runtime_pb2 as pb
from pqbench.runtime.v1.worker_pb2 import WorkerRequest
from pqbench_compressor.plugins import MODELS, Files
from pqbench_runtime.workers import start_worker
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import InvalidInput
from pqbench_wire.shared.inputs import normalise

from .conftest import COMMAND, ROOT, Pqbench, newest_run, rows_of

CONFIG = """
[PARAMETERS]
batchsizes = [2]
iterations = 1
[MODELS]
alexnet = 0
squeezenet = 1
[DATASETS]
imagenet1000 = 1
imagenette = 0
[PRUNING]
degrees = [0, 0.5]
[PRUNERS]
random = 0
lnstructured = 1
l1unstructuredglobal = 0
[LN_PRUNING]
dim = 0
n = 2
[REMOVAL_PRUNERS]
weight = 1
taylor = 1
[QUANTIZING]
int8 = 1
fp16 = 1
base = 1
[FILEFOLDERS]
trt_caches = ./data/trt_caches
experiments = ./data/experiments
"""
THESIS_COLUMNS = ["Model", "Pruner", "Quantizer", "Dataset", "Amount", "Accuracy", "Inference Time (ms)",
                  "Original Size", "Compressed Size", "Batch Size", "Prep Time (s)"]  # fmt: skip


@pytest.fixture
def thesis_data(shared_data: Path, tmp_path: Path) -> Path:
    """A data folder in the thesis' form: 24 flat JPEGs with labels.json; and random weights under the real name."""
    folder = tmp_path / "data" / "imagenet_sample"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(shared_data / "imagenet_sample.zip") as archive:
        given = json.loads(archive.read("imagenet_sample/labels.json"))["files"]
        chosen = sorted(given)[::42][:24]
        for name in chosen:
            (folder / Path(name).name).write_bytes(archive.read(f"imagenet_sample/{name}"))
    (folder / "labels.json").write_text(json.dumps({Path(name).name: given[name] for name in chosen}))
    torch.manual_seed(0)
    plugin = MODELS.load("torchvision")
    weights = tmp_path / "torch" / "hub" / "checkpoints" / "squeezenet1_0-b66bff10.pth"
    weights.parent.mkdir(parents=True)
    torch.save(plugin.build("squeezenet1_0", plugin.Config(), Files()).state_dict(), weights)
    return tmp_path / "data"


@pytest.mark.long
@pytest.mark.more
@pytest.mark.timeout(1200)
def test_the_thesis_config_runs_as_it_is(thesis_data: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.ini"
    config.write_text(CONFIG)
    command = [*COMMAND, "run", str(config), "--data", str(thesis_data)]
    environment = os.environ | {"TORCH_HOME": str(tmp_path / "torch")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=1100)
    assert done.returncode == 0, done.stdout + done.stderr
    experiment = next((thesis_data / "experiments").glob("Experiment_*.csv"))
    with experiment.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == THESIS_COLUMNS
    # unpruned and three prunings, each alone in PyTorch and with int8, fp16 and base on the runtime
    assert [(r["Pruner"], r["Quantizer"]) for r in rows[:5]] == [
        ("-", "-"), ("-", "int8"), ("-", "fp16"), ("-", "base"), ("lnstructured", "-"),
    ]  # fmt: skip
    assert len(rows) == 16 and {r["Model"] for r in rows} == {"squeezenet"}
    full = rows_of(newest_run(thesis_data))
    reasons = {r["Reason"] for r in full if r["Outcome"] == "refused"}
    assert reasons == {"dataset imagenet1000 has no training split, which this model or recipe needs"}
    refused = [row for row in full if row["Outcome"] == "refused"]
    assert len(refused) == 7 and all("int8" in r["Recipe"] or "taylor" in r["Recipe"] for r in refused)
    assert all(r["Outcome"] in ("ok", "refused") for r in full)
    timed = [row for row in rows if row["Inference Time (ms)"]]
    assert len(timed) == 9 and all(float(row["Inference Time (ms)"]) > 0 for row in timed)


@pytest.mark.parametrize(
    ("change", "problem"),
    [(("squeezenet = 1", "squeezenet = 2"), "MODELS: squeezenet must be 0 or 1, got '2'"),
     (("squeezenet", "squeezenett"), "MODELS: unknown key 'squeezenett'; did you mean 'squeezenet'"),
     (("[PRUNERS]", "[PRUNER]"), "unknown section 'PRUNER'; did you mean 'PRUNERS'"),
     (("[2]", "[2"), "PARAMETERS: batchsizes: not a number or list: '\\[2'"),
     (("degrees = [0, 0.5]", "degrees = 0.5"), "PRUNING: degrees: a list of numbers is expected, like [0, 0.5]"),
     (("iterations = 1", "iterations = 0"), "repeats: input should be greater than or equal to 1, got 0"),
     (("iterations = 1", "iterations = 5%"), "PARAMETERS: iterations: not a number or list: '5%'"),
     (("squeezenet = 1", ""), "MODELS: nothing is switched on")],
)  # fmt: skip
def test_a_wrong_thesis_config_is_one_line(
    tmp_path: Path, pqbench: Pqbench, change: tuple[str, str], problem: str
) -> None:
    config = tmp_path / "config.ini"
    config.write_text(CONFIG.replace(*change))
    done = pqbench("plan", config, "--data", tmp_path)
    assert done.code == 2 and problem.replace("\\", "") in done.err and done.err.count("\n") == 1, done.err


OWN_PRUNER = """
import torch

class FirstLayer:
    def __init__(self, share):
        self.share = share
    def prune(self, module, context):
        weight = next(module.parameters())
        count = int(len(weight) * self.share)
        with torch.no_grad():
            weight[:count] = 0
        return {"zeroed": count}
"""


@pytest.mark.long
def test_a_users_own_pruner_and_what_a_bundle_reproduces(
    tmp_path: Path, pqbench: Pqbench, write_manifest: Callable[..., Path], store: BlobStore
) -> None:
    (tmp_path / "own.py").write_text(OWN_PRUNER)
    prune = {"prune": {"method": "own.py:FirstLayer", "share": 0.25}}
    recipes = [{"name": "own", "steps": [prune, {"quantize": {"method": "int8-static", "images": 64}}]}]
    manifest = write_manifest(tmp_path, trained=True, recipes=recipes)
    denied = pqbench("run", manifest, "--data", tmp_path / "data", "--json")
    assert denied.code == 2 and "--allow-code" in denied.err
    done = pqbench("run", manifest, "--data", tmp_path / "data", "--allow-code", "--json")
    assert done.code == 0, done.err
    run, cell = json.loads(done.out)["run"], json.loads(done.out)["cells"][0]
    assert cell["outcome"] == "ok" and cell["pruner"] == "FirstLayer" and cell["nonzeros"] < cell["parameters"]
    made = pqbench("export", run, cell["cell"], "--out", tmp_path / "bundle")
    assert made.code == 0, made.err
    _check_bundle(tmp_path / "bundle", store, cell)
    assert pqbench("export", run, cell["cell"], "--out", tmp_path / "bundle").code == 2
    wrong = pqbench("export", run, "nope", "--out", tmp_path / "other")
    assert wrong.code == 2 and "no cell 'nope'" in wrong.err


def _check_bundle(folder: Path, store: BlobStore, cell: dict[str, Any]) -> None:
    """The files of a bundle give the outputs that it records."""
    card = (folder / "model_card.md").read_text()
    assert (
        "quantize int8-static" in card and f"{cell['accuracy_top1_percent']:.2f} %" in card and "onnxruntime 1." in card
    )
    history = json.loads((folder / "history.json").read_text())
    assert [step["kind"] for step in history] == ["prune", "quantize"]
    given = json.loads((folder / "preprocessing.json").read_text())
    preprocessing = Preprocessing(**given)
    sample = np.load(folder / "sample.npz")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    outputs = session.run(None, {"input": normalise(sample["images"], preprocessing)})[0]
    np.testing.assert_allclose(outputs, sample["outputs"], atol=0.5)  # INT8 rounds as its kernels do
    assert (outputs.argmax(1) == sample["outputs"].argmax(1)).all()
    engine = pb.Engine(
        backend="onnxruntime", options_json='{"threads": 1}', blob=store.put_file(folder / "engine.onnx"),
        batch_size=4, preprocessing=preprocessing,
    )  # fmt: skip
    images = Images(images=store.put_array(sample["images"]), labels=store.put_array(np.zeros(8, np.int64)))
    worker = start_worker(store.root)
    reply = worker.ask(WorkerRequest(predict=pb.PredictRequest(engine=engine, inputs=images)), lambda _: None)
    worker.close()
    np.testing.assert_allclose(store.array(reply.predict.outputs), sample["outputs"], atol=1e-4)


@pytest.mark.long
def test_sensitivity_as_table_and_page(tmp_path: Path, pqbench: Pqbench, write_manifest: Callable[..., Path]) -> None:
    manifest = write_manifest(tmp_path, trained=True)
    done = pqbench("sensitivity", manifest, "--data", tmp_path / "data", "--images", 64, "--json")
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    page = Path(answer["page"])
    assert "plotly" in page.read_text() and page.with_suffix(".csv").is_file()
    rows = answer["rows"]
    layers = {row["layer"] for row in rows}
    assert len(rows) == len(layers) * 10 and {row["technique"] for row in rows} == {"prune", "quantize"}
    harsh = [row["noise"] for row in rows if (row["technique"], row["setting"]) == ("quantize", 2)]
    mild = [row["noise"] for row in rows if (row["technique"], row["setting"]) == ("quantize", 8)]
    assert sum(harsh) > 10 * sum(mild)


class ZeroHalf:
    """A pruner object of the caller's own."""

    def prune(self, module: torch.nn.Module, context: Any) -> dict[str, int]:
        weight = next(module.parameters())
        with torch.no_grad():
            weight[::2] = 0
        return {"zeroed": len(weight) // 2}


def test_benchmark_takes_paths_and_wants_consent_for_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pqbench_orchestrator.api import benchmark

    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("def data():\n    return {}\n")
    with pytest.raises(InvalidInput, match="dataset own.py:data is your own code: allow it with --allow-code"):
        benchmark(model="digits/resnet", dataset="own.py:data", data=tmp_path / "data")
    with pytest.raises(InvalidInput, match='must return {"test"'):
        benchmark(model="digits/resnet", dataset="own.py:data", data=tmp_path / "data", allow_code=True)
    with pytest.raises(InvalidInput, match="not an .npz with images and labels"):
        arrays = {"dataset": "arrays", "config": {"test": tmp_path / "own.py"}}
        benchmark(model="digits/resnet", dataset=arrays, data=tmp_path / "data")


def test_benchmark_from_python(tmp_path: Path, digits: tuple[np.ndarray, np.ndarray]) -> None:
    from pqbench_orchestrator.api import benchmark

    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(1568, 10)
    )
    images, labels = digits
    rows = benchmark(
        model=module,
        dataset={"train": (images[:256], labels[:256]), "test": (images[256:320], labels[256:320])},
        recipe=[ZeroHalf(), {"finetune": {"epochs": 4, "learning_rate": 0.05}}],
        preprocessing={"height": 16, "width": 16, "channels": 1, "mean": [0.5], "std": [0.5]},
        data=tmp_path / "data",
        measure={"min_seconds": 0.05, "max_seconds": 0.05, "min_iterations": 6, "warmup_seconds": 0.01},
    )
    assert [row["recipe"] for row in rows] == ["baseline", "recipe"]
    assert [row["outcome"] for row in rows] == ["ok", "ok"], rows
    assert rows[1]["pruner"] == "object" and rows[1]["accuracy_top1_percent"] > 60 > rows[0]["accuracy_top1_percent"]
    assert rows[0]["parameters"] - rows[1]["nonzeros"] >= 36
