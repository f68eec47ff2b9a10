"""What contract tests share: a small trained network, and building and running engines as the service does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pqbench.common.v1.common_pb2 import Artifact, Form, Images, Precision, Preprocessing
from pqbench.runtime.v1 import runtime_pb2 as pb
from pqbench.runtime.v1.worker_pb2 import WorkerReply, WorkerRequest
from pqbench_compressor.plugins import MODELS, Context, Files, Training
from pqbench_runtime.workers import start_worker
from pqbench_wire.blobs import BlobStore
from pqbench_wire.workers import SessionWorker

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


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> BlobStore:
    """One blob store for all contract tests, as a service has one for all requests: its workers live on."""
    return BlobStore(tmp_path_factory.mktemp("contract") / "blobs")


@pytest.fixture(scope="session")
def builder(store: BlobStore) -> Iterator[SessionWorker[WorkerReply]]:
    """The worker that builds, replaced after an error: a process starts in seconds."""
    worker = SessionWorker(partial(start_worker, store.root), ends_after_error=True)
    yield worker
    worker.unload()


@pytest.fixture(scope="session")
def runner(store: BlobStore) -> Iterator[SessionWorker[WorkerReply]]:
    """The worker that runs engines."""
    worker = SessionWorker(partial(start_worker, store.root), ends_after_error=True)
    yield worker
    worker.unload()


@pytest.fixture
def build(store: BlobStore, builder: SessionWorker[WorkerReply]) -> Callable[..., pb.BuildEngineResult]:
    """Builds in a real worker process, as the service does."""

    def build(
        name: str,
        data: bytes,
        form: Form,
        precision: Precision,
        preprocessing: Preprocessing,
        calibration: Images | None = None,
        **options: Any,
    ) -> Any:
        request = pb.BuildEngineRequest(
            backend=name,
            options_json=json.dumps(options),
            artifact=Artifact(blob=store.put(data), form=form, precision=precision, calibration=calibration),
            batch_size=4,
            preprocessing=preprocessing,
        )
        key = f"{name} {request.options_json} {_environment()}"
        return builder.ask(key, WorkerRequest(build=request), lambda reply: None).build

    return build


@pytest.fixture
def predict(store: BlobStore, runner: SessionWorker[WorkerReply]) -> Callable[[pb.Engine, np.ndarray], np.ndarray]:
    """Outputs of an engine, in another worker than the one that built it."""

    def predict(engine: pb.Engine, images: np.ndarray) -> np.ndarray:
        inputs = Images(images=store.put_array(images), labels=store.put_array(np.zeros(len(images), np.int64)))
        request = WorkerRequest(predict=pb.PredictRequest(engine=engine, inputs=inputs))
        key = f"{engine.backend} {engine.options_json} {_environment()}"
        return store.array(runner.ask(key, request, lambda reply: None).predict.outputs)

    return predict


def _environment() -> str:
    """What a worker that starts now sees: another environment needs another process."""
    return repr(sorted((name, value) for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"))


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
