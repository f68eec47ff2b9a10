"""What is shipped is what was checked: engines against the model itself, artifacts as a user loads them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch

from pqbench.common.v1.common_pb2 import Artifact, Form, Images, Precision, Preprocessing
from pqbench.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from pqbench_compressor import export
from pqbench_compressor.quantizers._half import half
from pqbench_orchestrator.execution.launch.process import ProcessLauncher
from pqbench_orchestrator.store.ledger import FILE, Ledger
from pqbench_wire.blobs import BlobStore
from pqbench_wire.shared.fidelity import sqnr
from pqbench_wire.shared.inputs import normalise

from ..conftest import Pqbench, Write

INPUT = {"height": 32, "width": 32, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.mark.long
def test_an_engine_that_computes_something_else_is_found(
    shared_cases: Path, shared_data: Path, pqbench: Pqbench, write_manifest: Write, tmp_path: Path
) -> None:
    """OpenVINO divides by another count at the edge of a pooling in ceil mode: as wrong in each of its engines."""
    data = {
        split: str(shared_data / f"cifar10_{split}_lossless{count}.npz")
        for split, count in (("test", 846), ("train", 4660))
    }
    manifest = write_manifest(
        tmp_path,
        models=[{"model": f"{shared_cases}/modules/averagepool_ceil.py:build", "name": "pool", "preprocessing": INPUT}],
        datasets=[{"dataset": "cifar10", "test_images": 32, "train_images": 64, "config": data}],
        recipes=[{"name": "fp32"}, {"name": "zeros", "steps": [{"prune": {"method": "l1-global", "amount": 0.1}}]}],
        targets=[{"name": name, "backend": name, "options": {"threads": 1}} for name in ("onnxruntime", "openvino")],
        try_artifacts=True,
    )
    done = pqbench("run", manifest, "--data", tmp_path / "data", "--allow-code", "--json")
    assert done.code == 1, done.err
    cells = {(c["recipe"], c["target"]): c for c in json.loads(done.out)["cells"]}
    assert cells["fp32", "onnxruntime"]["sqnr_db"] > 100 and cells["zeros", "onnxruntime"]["warnings"] is None
    assert cells["fp32", "onnxruntime"]["artifact"] == "loads as it is"
    wrong = cells["fp32", "openvino"]
    assert wrong["outcome"] == "failed" and wrong["reason"].startswith(
        "computes something else: the engine's outputs have a fidelity of 1"
    )
    variant = cells["zeros", "openvino"]
    assert variant["sqnr_db"] < 20 and "dB, below the 60 dB usual for FP32" in variant["warnings"]


def test_the_quickstarts_int8_model_is_right_in_plain_openvino(
    quickstart: Path, pqbench: Pqbench, tmp_path: Path
) -> None:
    """The bundle's file with OpenVINO's defaults and its dynamic batch gives what the engine gave."""
    ledger = Ledger(quickstart / FILE)
    rows = [
        r
        for r in ledger.cells()
        if r["Target"] == "openvino-cpu" and r["Batch Size"] == 32 and r["Precision"] == "INT8"
    ]
    ledger.close()
    assert len(rows) == 2 and all(row["Artifact"] == "loads as it is" for row in rows)
    for row in rows:
        out = tmp_path / row["Cell"]
        assert pqbench("export", quickstart, row["Cell"], "--out", out).code == 0
        sample = np.load(out / "sample.npz")
        images = ((sample["images"] / 255 - 0.5) / 0.5).transpose(0, 3, 1, 2).astype(np.float32)
        compiled = openvino.Core().compile_model(out / "model.onnx", "CPU")
        for size in (1, 3, 8):
            assert sqnr(sample["outputs"][:size], compiled(images[:size])[0]) > 25
        assert "loads as it is" in (out / "model_card.md").read_text()


class Encoder(torch.nn.Module):
    """Patches and two transformer layers: in FP16, ONNX Runtime 1.32 dies of it with its default optimisations."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0)
        self.patch, self.f = torch.nn.Conv2d(3, 64, 8, 8), torch.nn.Linear(64, 10)
        self.layers = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.f(self.layers(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


def test_an_artifact_that_kills_its_runtime_says_what_it_needs(tmp_path: Path) -> None:
    """The service lives on, and the next ways of loading it are tried until one is right."""
    preprocessing = Preprocessing(height=32, width=32, channels=3, mean=[0.5] * 3, std=[0.25] * 3)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    images = normalise(pixels, preprocessing)
    model = half(onnx.load_from_string(export.to_onnx(Encoder().eval(), images[:2])))
    store = BlobStore(tmp_path / "blobs")
    request = runtime_pb2.TryArtifactRequest(
        backend="onnxruntime",
        artifact=Artifact(blob=store.put(model), form=Form.FORM_ONNX, precision=Precision.PRECISION_FP16),
        preprocessing=preprocessing,
        inputs=Images(images=store.put_array(pixels), labels=store.put_array(np.zeros(8, np.int64))),
        reference=store.put_array(export.run_module(Encoder().eval(), images)),
        batch_sizes=[1, 3],
        least_db=25.0,
    )
    launcher = ProcessLauncher("pqbench_runtime", tmp_path, tmp_path / "log", (), "")
    try:
        client = launcher.start()
        stub = runtime_pb2_grpc.RuntimeServiceStub(client.channel)
        trials = client.result(stub.TryArtifact, request).trials
        assert trials[-1].problem == "" and trials[-1].sqnr_db > 40
        assert all("crashed" in one.problem for one in trials[:-1])
        request.least_db = 150.0
        wrong = client.result(stub.TryArtifact, request).trials
        assert len(wrong) == 3 and "fidelity is" in wrong[-1].problem
    finally:
        launcher.stop()
