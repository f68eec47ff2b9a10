"""What contract tests share: a small trained network, and building and running engines as the service does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pqbench.common.v1.common_pb2 import Artifact, Form, Images, Precision, Preprocessing
from pqbench.runtime.v1 import runtime_pb2 as pb
from pqbench.runtime.v1.worker_pb2 import WorkerRequest
from pqbench_compressor.plugins import MODELS, Context, Files, Training
from pqbench_runtime.workers import start_worker
from pqbench_wire.blobs import BlobStore

EMULATOR = Path(__file__).parents[1] / "emulator"


@pytest.fixture(scope="session")
def training(digits: tuple[np.ndarray, np.ndarray], digits_preprocessing: Preprocessing) -> Training:
    return Training(images=digits[0], labels=digits[1], preprocessing=digits_preprocessing)


@pytest.fixture(scope="session")
def context(training: Training) -> Context:
    return Context(
        seed=0, report=lambda *_: None, classes=10, images=training.inputs(slice(16)), training_split=training
    )


@pytest.fixture(scope="session")
def trained(context: Context) -> torch.nn.Module:
    """The digits network after a short training."""
    plugin = MODELS.load("digits")
    torch.manual_seed(0)
    return plugin.pretrained("resnet", plugin.Config(epochs=2), Files(), context)


@pytest.fixture
def build(store: BlobStore) -> Iterator[Callable[..., pb.BuildEngineResult]]:
    """Builds in a real worker process, as the service does."""
    workers = []

    def build(
        name: str,
        data: bytes,
        form: Form,
        precision: Precision,
        preprocessing: Preprocessing,
        calibration: Images | None = None,
        **options: Any,
    ) -> Any:
        workers.append(start_worker(store.root))
        request = pb.BuildEngineRequest(
            backend=name,
            options_json=json.dumps(options),
            artifact=Artifact(blob=store.put(data), form=form, precision=precision, calibration=calibration),
            batch_size=4,
            preprocessing=preprocessing,
        )
        return workers[-1].ask(WorkerRequest(build=request), lambda reply: None).build

    yield build
    for worker in workers:
        worker.close()


@pytest.fixture
def predict(store: BlobStore) -> Callable[[pb.Engine, np.ndarray], np.ndarray]:
    """Outputs of an engine in a fresh worker."""

    def predict(engine: pb.Engine, images: np.ndarray) -> np.ndarray:
        worker = start_worker(store.root)
        inputs = Images(images=store.put_array(images), labels=store.put_array(np.zeros(len(images), np.int64)))
        try:
            request = WorkerRequest(predict=pb.PredictRequest(engine=engine, inputs=inputs))
            return store.array(worker.ask(request, lambda reply: None).predict.outputs)
        finally:
            worker.close()

    return predict


@pytest.fixture(scope="session")
def cudart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the stand-in for CUDA's runtime library."""
    folder = tmp_path_factory.mktemp("cudart")
    command = [
        "gcc",
        "-shared",
        "-fPIC",
        "-O1",
        "-Wl,-Bsymbolic",
        "-o",
        str(folder / "libcudart.so.13"),
        str(EMULATOR / "cudart.c"),
    ]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture
def use(cudart: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes workers that start from now on see a GPU and a TensorRT version: the stand-ins of tests/emulator."""

    def use(version: str = "10.16.1.11", **environment: str) -> None:
        path = f"{EMULATOR / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"  # the tools' own python3 first
        values = {
            "EMULATED_TENSORRT": version,
            "PYTHONPATH": str(EMULATOR),
            "LD_LIBRARY_PATH": str(cudart),
            "PATH": path,
        }
        for name, value in (values | environment).items():
            monkeypatch.setenv(name, value)

    return use
