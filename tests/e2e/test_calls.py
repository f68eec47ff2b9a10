"""Calls that are held open or abandoned leave a service that answers."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto, helper

from pqbench.blob.v1 import blob_pb2_grpc
from pqbench.common.v1.common_pb2 import Artifact, Form, Precision, Preprocessing
from pqbench.inference import open_inference_pb2, open_inference_pb2_grpc
from pqbench.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from pqbench_wire.blobs import BlobStore
from pqbench_wire.client import Client
from pqbench_wire.errors import Busy
from pqbench_wire.interceptor import MAX_CALLS, REQUEST_SECONDS
from pqbench_wire.server import SPARE_THREADS
from pqbench_wire.shared.locks import file_lock

MANY = 64


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[str]:
    """The address of a runtime over tmp_path/data with its locks in tmp_path/locks."""
    arguments = ["--data", str(tmp_path / "data"), "--locks", str(tmp_path / "locks")]
    with subprocess.Popen([sys.executable, "-m", "pqbench_runtime", *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["listening"]
        process.terminate()
        assert process.wait(20) == 0


def answers(address: str) -> bool:
    """Whether health and a short call are answered in time."""
    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
        stub = runtime_pb2_grpc.RuntimeServiceStub(channel)
        options = stub.Check(runtime_pb2.CheckRequest(backend="onnxruntime"), timeout=60).options_json
    return health.status == health_pb2.HealthCheckResponse.SERVING and "threads" in options


def test_streams_that_watch_health_hold_nothing(runtime: str) -> None:
    with ExitStack() as stack:
        for _ in range(MANY):
            channel = stack.enter_context(grpc.insecure_channel(runtime, [("grpc.use_local_subchannel_pool", 1)]))
            watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            stack.callback(watching.cancel)
            assert next(watching).status == health_pb2.HealthCheckResponse.SERVING
        assert answers(runtime)


def test_abandoned_calls_behind_a_lock_hold_nothing(runtime: str, tmp_path: Path) -> None:
    name = _built(runtime, tmp_path)
    with grpc.insecure_channel(runtime) as channel:
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = open_inference_pb2.ModelInferRequest(
            model_name=name, raw_input_contents=[np.zeros((1, 4), np.float32).tobytes()]
        )
        request.inputs.add(name="input", datatype="FP32", shape=[1, 4])
        with file_lock(tmp_path / "locks" / "machine.lock"):  # as one who measures
            calls = [stub.ModelInfer.future(request, timeout=2) for _ in range(MANY)]
            assert {call.code() for call in calls} <= {
                grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE,
            }  # fmt: skip
            time.sleep(1)  # a caller's going away is seen within a poll
            assert answers(runtime)
        assert stub.ModelInfer(request, timeout=20).outputs[0].shape == [1, 4]


@pytest.mark.parametrize("method", ["/grpc.health.v1.Health/Check", "/pqbench.runtime.v1.RuntimeService/Check"])
def test_calls_without_a_request_hold_nothing_for_long(method: str, runtime: str) -> None:
    """gRPC itself waits for a request on a thread of the pool, before any token is looked at."""
    with ExitStack() as stack:
        for _ in range(MAX_CALLS + SPARE_THREADS):
            channel = stack.enter_context(grpc.insecure_channel(runtime, [("grpc.use_local_subchannel_pool", 1)]))
            half = channel.stream_unary(method).future(_never_goes_on(stack), timeout=120)
            stack.callback(half.cancel)
        time.sleep(1)
        with grpc.insecure_channel(runtime) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            answer = health.Check(health_pb2.HealthCheckRequest(), timeout=REQUEST_SECONDS + 10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_calls_over_the_limit_are_refused_and_health_answers(runtime: str) -> None:
    """Uploads that never go on hold a thread each."""
    with ExitStack() as stack:
        uploads = []
        for _ in range(MAX_CALLS + 1):
            channel = stack.enter_context(grpc.insecure_channel(runtime, [("grpc.use_local_subchannel_pool", 1)]))
            uploads.append(blob_pb2_grpc.BlobServiceStub(channel).Write.future(_never_goes_on(stack), timeout=300))
            stack.callback(uploads[-1].cancel)
        _until(lambda: any(upload.done() for upload in uploads))
        assert [upload.code() for upload in uploads if upload.done()] == [grpc.StatusCode.RESOURCE_EXHAUSTED]
        stranger = Client(runtime)
        stack.callback(stranger.close)
        stub = runtime_pb2_grpc.RuntimeServiceStub(stranger.channel)
        with pytest.raises(Busy, match=f"{MAX_CALLS} calls are in flight"):
            stranger.call(stub.Check, runtime_pb2.CheckRequest(backend="onnxruntime"))
        health = health_pb2_grpc.HealthStub(stranger.channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
    _until(lambda: answers(runtime))


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while True:
        with suppress(grpc.RpcError):
            if holds():
                return
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _never_goes_on(stack: ExitStack) -> Iterator[object]:
    """An upload whose first message does not come until the stack ends."""
    ended = threading.Event()
    stack.callback(ended.set)
    return iter(ended.wait, True)


def _built(address: str, folder: Path) -> str:
    """The name of a small engine on the runtime."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["input"], ["output"])],
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    store = BlobStore(folder / "data" / "blobs")
    preprocessing = Preprocessing()
    preprocessing.inputs.add(name="input", dtype="float32", shape=[4])
    request = runtime_pb2.BuildEngineRequest(
        backend="onnxruntime",
        options_json="{}",
        artifact=Artifact(
            blob=store.put(model.SerializeToString()), form=Form.FORM_ONNX, precision=Precision.PRECISION_FP32
        ),
        batch_size=1,
        preprocessing=preprocessing,
    )
    client = Client(address)
    built = client.result(runtime_pb2_grpc.RuntimeServiceStub(client.channel).BuildEngine, request)
    client.close()
    return built.model_name
