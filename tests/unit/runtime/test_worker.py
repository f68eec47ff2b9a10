"""Workers and the service around them: frames, crashes, precision checks, bounds."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from pqbench.common.v1.common_pb2 import Artifact, Form, Images, Precision, Preprocessing
from pqbench.runtime.v1 import runtime_pb2 as pb
from pqbench.runtime.v1.worker_pb2 import WorkerReply, WorkerRequest
from pqbench_runtime.backend import BACKENDS, Built, Layer, Route
from pqbench_runtime.building import check_precision, executed_precisions
from pqbench_runtime.feeds import padded
from pqbench_runtime.loaded import MAX_ENGINES
from pqbench_runtime.service import RuntimeServicer
from pqbench_runtime.worker import Worker
from pqbench_runtime.workers import start_worker
from pqbench_wire import frames
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import InvalidInput, NotFound, PrecisionMismatch, TooLarge, WorkerCrashed
from pqbench_wire.server import ServerOptions
from pqbench_wire.workers import SessionWorker, WorkerProcess, translated

SMALL = Preprocessing(height=4, width=4, channels=1, mean=[0], std=[1])
FP32 = Precision.PRECISION_FP32
INT8 = Precision.PRECISION_INT8


def model() -> bytes:
    """Global average pooling and a 1x1 convolution to 3 classes: [N, 1, 4, 4] to [N, 3]."""
    weight = numpy_helper.from_array(np.array([1, 2, 3], np.float32).reshape(3, 1, 1, 1), "w")
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["output"]),
    ]
    made = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, 4, 4])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 3])],
        [weight],
    )  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


FORKS = """
import os, signal, sys, time
from pqbench.common.v1.common_pb2 import Progress
from pqbench.runtime.v1.worker_pb2 import WorkerReply
from pqbench_wire.errors import InvalidInput, PqbenchError
from pqbench_wire.workers import in_fork

def wrong():
    raise InvalidInput("no such thing")

def done():
    return WorkerReply(progress=Progress(stage=str(os.getpid() != PARENT)))

PARENT = os.getpid()
print(in_fork(done, WorkerReply).progress.stage)
for work in (wrong, os.abort, lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: os._exit(3)):
    try:
        in_fork(work, WorkerReply)
    except PqbenchError as error:
        print(type(error).__name__, error)
"""


def test_what_a_fork_did_is_its_reply_its_error_or_its_crash() -> None:
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "True",
        "InvalidInput no such thing",
        "WorkerCrashed the worker crashed (SIGABRT in native code)",
        "WorkerCrashed the worker was killed (SIGKILL: out of memory, or by hand)",
        "WorkerCrashed the worker crashed (exit code 3)",
    ]


@pytest.fixture
def worker(store: BlobStore) -> Iterator[WorkerProcess]:
    made = start_worker(store.root)
    yield made
    made.close()


@pytest.fixture
def inputs(store: BlobStore) -> Images:
    images = np.arange(7 * 16, dtype=np.uint8).reshape(7, 4, 4, 1)
    return Images(images=store.put_array(images), labels=store.put_array(np.zeros(7, np.int64)))


def build_request(store: BlobStore, batch: int = 2) -> pb.BuildEngineRequest:
    artifact = Artifact(blob=store.put(model()), form=Form.FORM_ONNX, precision=FP32)
    return pb.BuildEngineRequest(
        backend="onnxruntime", options_json='{"threads": 1}', artifact=artifact, batch_size=batch, preprocessing=SMALL
    )


def test_frames_survive_a_pipe() -> None:
    reading, writing = os.pipe()
    message = WorkerRequest(measure=pb.MeasureRequest(run="x" * 300_000))
    thread = threading.Thread(target=lambda: (frames.write(writing, message), os.close(writing)))
    thread.start()
    assert frames.read(reading, WorkerRequest) == message
    assert frames.read(reading, WorkerRequest) is None
    thread.join()
    os.close(reading)


def test_build_predict_and_measure(store: BlobStore, worker: WorkerProcess, inputs: Images) -> None:
    built = worker.ask(WorkerRequest(build=build_request(store)), lambda reply: None).build
    assert dict(built.executed) == {"FP32": 1} and built.versions["onnxruntime"]
    predicted = worker.ask(
        WorkerRequest(predict=pb.PredictRequest(engine=built.engine, inputs=inputs)), lambda reply: None
    ).predict
    outputs = store.array(predicted.outputs)
    means = store.array(inputs.images).astype(np.float64).mean((1, 2, 3)) / 255
    np.testing.assert_allclose(outputs, means[:, None] * [1, 2, 3], rtol=1e-5)  # the padded last batch is cut
    settings = pb.MeasureSettings(
        warmup_iterations=1, min_seconds=0.02, max_seconds=0.05, min_iterations=3, stability=0.5, windows=6
    )
    request = pb.MeasureRequest(engines=[built.engine] * 2, inputs=inputs, settings=settings, run="r")
    measured = worker.ask(WorkerRequest(measure=request), lambda reply: None).measure
    arrays = store.archive(measured.samples)
    assert len(measured.timings) == 2 and measured.settings == settings and measured.peak_rss_bytes > 1e6
    for i, figures in enumerate(measured.timings):
        assert figures.count == len(arrays[f"latency_{i}"]) == len(arrays[f"block_{i}"]) >= 3
        assert figures.median == np.median(arrays[f"latency_{i}"])


def test_errors_come_back_and_the_worker_lives_on(store: BlobStore, worker: WorkerProcess) -> None:
    broken = build_request(store)
    broken.artifact.blob.sha256 = "0" * 64
    with pytest.raises(NotFound, match="blob 0000"):
        worker.ask(WorkerRequest(build=broken), lambda reply: None)
    assert worker.ask(WorkerRequest(build=build_request(store)), lambda reply: None).build.engine.blob.size > 0


def test_a_killed_worker_is_reported_and_replaced(store: BlobStore, inputs: Images) -> None:
    session = SessionWorker(lambda: start_worker(store.root))
    built = session.ask("k", WorkerRequest(build=build_request(store)), lambda reply: None).build
    assert session._worker is not None
    os.kill(session._worker.pid, signal.SIGKILL)
    session._worker._process.wait()
    request = WorkerRequest(predict=pb.PredictRequest(engine=built.engine, inputs=inputs))
    assert session.ask("k", request, lambda reply: None).predict.outputs.size > 0
    session.unload()


def test_builds_share_a_worker_until_one_fails(store: BlobStore) -> None:
    started = []

    def start() -> WorkerProcess:
        started.append(start_worker(store.root))
        return started[-1]

    builder, good, broken = SessionWorker(start, ends_after_error=True), build_request(store), build_request(store)
    broken.artifact.blob.sha256 = "0" * 64
    for request, workers in ((good, 1), (good, 1), (broken, 1), (good, 2)):
        try:
            assert builder.ask_if_free("k", WorkerRequest(build=request), lambda reply: None).build.engine.blob.size > 0
        except NotFound:
            assert request is broken
        assert len(started) == workers
    builder.unload()
    assert not any(worker.alive for worker in started)


def test_a_worker_killed_at_work_is_a_crash_with_its_signal(
    store: BlobStore, worker: WorkerProcess, inputs: Images
) -> None:
    built = worker.ask(WorkerRequest(build=build_request(store)), lambda reply: None).build
    settings = pb.MeasureSettings(
        warmup_iterations=1, min_seconds=30, max_seconds=30, min_iterations=3, stability=0.5, windows=300
    )
    request = WorkerRequest(
        measure=pb.MeasureRequest(run="r", engines=[built.engine], inputs=inputs, settings=settings)
    )
    timer = threading.Timer(1.0, lambda: os.kill(worker.pid, signal.SIGABRT))
    timer.start()
    with pytest.raises(WorkerCrashed, match="SIGABRT"):
        worker.ask(request, lambda reply: None)
    assert not worker.alive


def test_a_question_given_up_ends_its_worker(store: BlobStore, worker: WorkerProcess, inputs: Images) -> None:
    built = worker.ask(WorkerRequest(build=build_request(store)), lambda reply: None).build
    settings = pb.MeasureSettings(
        warmup_iterations=1, min_seconds=30, max_seconds=30, min_iterations=3, stability=0.5, windows=300
    )
    request = WorkerRequest(
        measure=pb.MeasureRequest(run="r", engines=[built.engine], inputs=inputs, settings=settings)
    )

    def give_up(reply: WorkerReply) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        worker.ask(request, give_up)
    assert not worker.alive


def _built(*precisions: str) -> Built:
    layers = [Layer(name=str(i), type="Conv", precision=p, compute=True) for i, p in enumerate(precisions)]
    return Built(data=b"", layers=[*layers, Layer(name="r", type="Relu", precision="BF16", compute=False)])


def route(precision: Precision, form: Form, *executes: Precision) -> Route:
    demanded = precision != FP32 and form != Form.FORM_QDQ_TOOL
    return Route(precision=precision, form=form, executes=executes, evidence="", demanded=demanded)


def test_an_engine_in_another_precision_is_an_error() -> None:
    executed = executed_precisions(_built("FP32", "BF16", "BF16"))
    assert executed == {"FP32": 1, "BF16": 2}
    with pytest.raises(PrecisionMismatch, match="asked for FP32; its compute layers run: 2 in BF16, 1 in FP32"):
        check_precision(executed, route(FP32, Form.FORM_ONNX, FP32), "openvino")
    with pytest.raises(PrecisionMismatch, match="asked for INT8 and runs no compute layer in it"):
        check_precision({"FP32": 3}, route(INT8, Form.FORM_QDQ_UNSIGNED, INT8, FP32), "onnxruntime")
    check_precision({"INT8": 1, "FP32": 2}, route(INT8, Form.FORM_QDQ_UNSIGNED, INT8, FP32), "onnxruntime")
    check_precision({"FP32": 3}, route(INT8, Form.FORM_QDQ_TOOL, INT8, FP32), "onnxruntime")  # a finding


def test_padding_repeats_images() -> None:
    images = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1)
    assert padded(images, 5).ravel().tolist() == [0, 1, 2, 0, 1]
    with pytest.raises(InvalidInput, match="no images"):
        padded(images[:0], 5)


def test_memory_errors_are_told_apart() -> None:
    assert translated(MemoryError("2 GB")).reason == "OUT_OF_MEMORY"
    unforeseen = translated(KeyError("x"))
    assert unforeseen.reason == "INTERNAL" and re.fullmatch(
        r"KeyError: 'x' \(error [0-9a-f]{8} in the service's log\)", unforeseen.message
    )


@pytest.mark.parametrize(
    ("batch", "preprocessing", "error"),
    [(0, SMALL, InvalidInput), (1, Preprocessing(), InvalidInput), (1 << 17, SMALL, InvalidInput),
     (65536, Preprocessing(height=4096, width=4096, channels=3), TooLarge)],
)  # fmt: skip
def test_requests_are_bounded(tmp_path: Path, batch: int, preprocessing: Preprocessing, error: type[Exception]) -> None:
    servicer = RuntimeServicer(tmp_path, None)
    with pytest.raises(error):
        servicer.BuildEngine(pb.BuildEngineRequest(batch_size=batch, preprocessing=preprocessing), None)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="1 to 8 engines"):
        servicer.Measure(pb.MeasureRequest(), None)  # type: ignore[arg-type]


def test_loopback_is_the_default() -> None:
    assert ServerOptions().listen == "127.0.0.1:0"


def test_no_engine_of_a_measurement_is_unloaded_for_another(store: BlobStore, inputs: Images) -> None:
    """Two engines with more instances than are kept otherwise: each works to the end.

    With OpenVINO: ONNX Runtime's thread pool is its process's own.
    """
    pytest.importorskip("openvino")
    worker = Worker(store, lambda reply: None)
    engines = []
    for batch in (1, 2):
        request = pb.BuildEngineRequest(
            backend="openvino", options_json='{"threads": 1}', batch_size=batch, preprocessing=SMALL,
            artifact=Artifact(blob=store.put(model()), form=Form.FORM_ONNX, precision=FP32),
        )  # fmt: skip
        engines.append(worker.build(request).engine)
    settings = pb.MeasureSettings(
        warmup_seconds=0.01, warmup_iterations=1, min_seconds=0.06, min_iterations=6, max_seconds=0.06, stability=0.5,
        windows=6, scenario=pb.SCENARIO_OFFLINE, concurrency=6,
    )  # fmt: skip
    result = worker.measure(pb.MeasureRequest(engines=engines, inputs=inputs, settings=settings, run="r"))
    assert len(worker._engines._loaded) == 12 > MAX_ENGINES and len(result.timings) == 2


def test_a_backend_with_a_mistake_is_unavailable_and_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("torch")

    def mistaken(options: object) -> str:
        raise NameError("name 'torhc' is not defined")

    monkeypatch.setattr(BACKENDS.load("pytorch"), "device", mistaken)
    asked = pb.GetCapabilitiesRequest(backends=["pytorch", "openvino"])
    found = RuntimeServicer(tmp_path, None).GetCapabilities(asked, cast(Any, None)).backends
    reasons = {one.plugin.name: one.plugin.unavailable_reason for one in found}
    assert reasons == {"pytorch": "NameError: name 'torhc' is not defined", "openvino": ""}
