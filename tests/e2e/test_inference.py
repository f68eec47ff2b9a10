"""The Open Inference Protocol, health and reflection, as stock clients see them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import shared_memory
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from onnx import TensorProto, helper, numpy_helper

from pqbench.common.v1.common_pb2 import Artifact, Form, Input, Precision, Preprocessing
from pqbench.inference import open_inference_pb2 as oip
from pqbench.inference import open_inference_pb2_grpc
from pqbench.runtime.v1 import runtime_pb2 as pb
from pqbench.runtime.v1 import runtime_pb2_grpc
from pqbench_runtime.oip_regions import Regions
from pqbench_wire.blobs import BlobStore
from pqbench_wire.client import Client
from pqbench_wire.errors import Refused

IMAGE = Preprocessing(height=4, width=4, channels=1, mean=[0], std=[1])
TOKENS = Preprocessing(inputs=[Input(name="tokens", dtype="int64", shape=[3])])
BATCH = 2


def image_model() -> bytes:
    """The mean of each image times 1, 2 and 3: [batch, 1, 4, 4] to [batch, 3]."""
    weight = numpy_helper.from_array(np.array([1, 2, 3], np.float32).reshape(3, 1, 1, 1), "w")
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["output"]),
    ]
    return _model(nodes, ("input", TensorProto.FLOAT, [1, 4, 4]), ("output", TensorProto.FLOAT, [3]), [weight])


def token_model() -> bytes:
    """Doubles [batch, 3] integers."""
    two = numpy_helper.from_array(np.array(2, np.int64), "two")
    nodes = [helper.make_node("Mul", ["tokens", "two"], ["output"])]
    return _model(nodes, ("tokens", TensorProto.INT64, [3]), ("output", TensorProto.INT64, [3]), [two])


def _model(
    nodes: list[Any], given: tuple[str, int, list[int]], made: tuple[str, int, list[int]], w: list[Any]
) -> bytes:
    values = [helper.make_tensor_value_info(name, kind, ["batch", *shape]) for name, kind, shape in (given, made)]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], w)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    data = tmp_path_factory.mktemp("runtime")
    command = [sys.executable, "-m", "pqbench_runtime", "--data", str(data)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    yield json.loads(process.stdout.readline())["listening"], data
    process.terminate()
    process.wait()
    process.stdout.close()


def build(runtime: tuple[str, Path], model: bytes, preprocessing: Preprocessing, backend: str = "onnxruntime") -> str:
    address, data = runtime
    client = Client(address)
    artifact = Artifact(
        blob=BlobStore(data / "blobs").put(model), form=Form.FORM_ONNX, precision=Precision.PRECISION_FP32
    )
    request = pb.BuildEngineRequest(
        backend=backend, options_json='{"threads": 1}', artifact=artifact, batch_size=BATCH, preprocessing=preprocessing
    )
    stub = runtime_pb2_grpc.RuntimeServiceStub(client.channel)
    name = client.result(stub.BuildEngine, request).model_name
    client.close()
    return str(name)


@pytest.fixture(scope="module")
def images(runtime: tuple[str, Path]) -> str:
    return build(runtime, image_model(), IMAGE)


@pytest.fixture(scope="module")
def stub(runtime: tuple[str, Path]) -> Iterator[Any]:
    with grpc.insecure_channel(runtime[0], [("grpc.max_send_message_length", -1)]) as channel:
        yield open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)


def asking(model: str, array: np.ndarray, raw: bool, name: str = "input", datatype: str = "FP32") -> Any:
    """A request with one input, as bytes or as typed values."""
    request = oip.ModelInferRequest(model_name=model, id="7")
    tensor = request.inputs.add(name=name, datatype=datatype, shape=array.shape)
    if raw:
        request.raw_input_contents.append(array.tobytes())
    else:
        field = {"FP32": "fp32_contents", "INT64": "int64_contents"}[datatype]
        getattr(tensor.contents, field).extend(array.ravel().tolist())
    return request


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_infer(runtime: tuple[str, Path], stub: Any, backend: str, raw: bool) -> None:
    model = build(runtime, image_model(), IMAGE, backend)
    array = np.arange(32, dtype=np.float32).reshape(2, 1, 4, 4)
    for count in (1, 2):
        answer = stub.ModelInfer(asking(model, array[:count], raw))
        assert (answer.model_name, answer.model_version, answer.id) == (model, "1", "7")
        (output,) = answer.outputs
        assert (output.name, output.datatype, list(output.shape)) == ("output", "FP32", [count, 3])
        values = np.frombuffer(answer.raw_output_contents[0], np.float32) if raw else output.contents.fp32_contents
        wanted = array[:count].mean(axis=(1, 2, 3))[:, None] * [1, 2, 3]
        np.testing.assert_allclose(np.reshape(values, (count, 3)), wanted, rtol=1e-5)


def test_integers(runtime: tuple[str, Path], stub: Any) -> None:
    model = build(runtime, token_model(), TOKENS)
    answer = stub.ModelInfer(asking(model, np.array([[1, 2, -3]]), False, "tokens", "INT64"))
    assert list(answer.outputs[0].contents.int64_contents) == [2, 4, -6]
    config = stub.ModelConfig(oip.ModelConfigRequest(name=model)).config
    assert (config.backend, config.max_batch_size, list(config.input[0].dims)) == ("onnxruntime", 2, [3])
    assert config.input[0].data_type == oip.TYPE_INT64


def _wrong() -> dict[str, tuple[dict[str, Any], str, str]]:
    one = np.zeros((1, 1, 4, 4), np.float32)
    return {
        "unknown model": ({"model": "nothing"}, "NOT_FOUND", "no engine is called 'nothing'"),
        "batch too large": ({"array": np.zeros((3, 1, 4, 4), np.float32)}, "INVALID_ARGUMENT", "[1 to 2, 1, 4, 4]"),
        "no batch": ({"array": one[:0]}, "INVALID_ARGUMENT", "[1 to 2, 1, 4, 4]"),
        "other shape": ({"array": np.zeros((1, 1, 4, 5), np.float32)}, "INVALID_ARGUMENT", "given [1, 1, 4, 5]"),
        "other name": ({"name": "x"}, "INVALID_ARGUMENT", "takes the inputs input; given: x"),
        "other type": ({"datatype": "INT64", "array": one.astype(np.int64)}, "INVALID_ARGUMENT", "input input is FP32"),
        "over the limit": ({"array": np.zeros((40, 512, 32, 32), np.float32)}, "RESOURCE_EXHAUSTED", "larger than max"),
    }


@pytest.mark.parametrize("case", _wrong())
def test_wrong_requests(stub: Any, images: str, case: str) -> None:
    changes, code, text = _wrong()[case]
    settings = {"model": images, "array": np.zeros((1, 1, 4, 4), np.float32), "raw": True} | changes
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(asking(**settings))
    assert caught.value.code().name == code
    assert text in caught.value.details()


def test_wrong_contents(stub: Any, images: str) -> None:
    short = asking(images, np.zeros((1, 1, 4, 4), np.float32), True)
    short.raw_input_contents[0] = b"1234"
    memory = asking(images, np.zeros((1, 1, 4, 4), np.float32), True)
    memory.inputs[0].parameters["shared_memory_region"].string_param = "x"
    priority = asking(images, np.zeros((1, 1, 4, 4), np.float32), True)
    priority.parameters["priority"].int64_param = 1
    unknown = asking(images, np.zeros((1, 1, 4, 4), np.float32), True)
    unknown.outputs.add(name="logits")
    for request, text in (
        (short, "64 bytes, given 4"),
        (memory, "0 inputs are not in shared memory, but there are 1 raw_input_contents"),
        (priority, "the parameter 'priority' is not supported"),
        (unknown, "asked for logits"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert text in caught.value.details()


@pytest.fixture
def region(stub: Any) -> Iterator[shared_memory.SharedMemory]:
    """4,096 bytes of shared memory, the last 3,096 of which are registered as `region`."""
    memory = shared_memory.SharedMemory(create=True, size=4096)
    stub.SystemSharedMemoryRegister(registering(memory, "region", offset=1000))
    yield memory
    stub.SystemSharedMemoryUnregister(oip.SystemSharedMemoryUnregisterRequest())
    memory.close()
    memory.unlink()


def registering(memory: shared_memory.SharedMemory, name: str, offset: int = 0, **changes: Any) -> Any:
    size = memory.size - offset
    given = {"name": name, "key": f"/{memory.name}", "offset": offset, "byte_size": size} | changes
    return oip.SystemSharedMemoryRegisterRequest(**given)


def placed(model: str, count: int, offset: int = 0, size: int | None = None, region: str = "region") -> Any:
    """A request whose input is in shared memory."""
    request = oip.ModelInferRequest(model_name=model)
    tensor = request.inputs.add(name="input", datatype="FP32", shape=[count, 1, 4, 4])
    in_region(tensor, offset, 64 * count if size is None else size, region)
    return request


def in_region(tensor: Any, offset: int, size: int, region: str = "region") -> None:
    tensor.parameters["shared_memory_region"].string_param = region
    tensor.parameters["shared_memory_byte_size"].int64_param = size
    if offset:
        tensor.parameters["shared_memory_offset"].int64_param = offset


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_inputs_and_outputs_in_shared_memory(
    runtime: tuple[str, Path], stub: Any, region: shared_memory.SharedMemory, backend: str
) -> None:
    model = build(runtime, image_model(), IMAGE, backend)
    array = np.arange(32, dtype=np.float32).reshape(2, 1, 4, 4)
    wanted = array.mean(axis=(1, 2, 3))[:, None] * [1, 2, 3]
    for count in (1, 2, 1):
        np.ndarray((count, 1, 4, 4), np.float32, region.buf, 1200)[...] = array[:count]
        answer = stub.ModelInfer(placed(model, count, 200))
        values = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(answer.outputs[0].shape)
        np.testing.assert_allclose(values, wanted[:count], rtol=1e-5)
        request = placed(model, count, 200)
        in_region(request.outputs.add(name="output"), 1000, 24)
        np.ndarray((2, 3), np.float32, region.buf, 2000)[...] = -1
        answer = stub.ModelInfer(request)
        assert answer.outputs[0].parameters["shared_memory_region"].string_param == "region"
        assert list(answer.outputs[0].shape) == [count, 3] and b"".join(answer.raw_output_contents) == b""
        np.testing.assert_allclose(np.ndarray((count, 3), np.float32, region.buf, 2000), wanted[:count], rtol=1e-5)
        assert count == 2 or (np.ndarray(3, np.float32, region.buf, 2012) == -1).all(), "the rest is left alone"


def test_shared_memory_is_listed_and_checked(
    stub: Any, images: str, region: shared_memory.SharedMemory, tmp_path: Path
) -> None:
    status = stub.SystemSharedMemoryStatus(oip.SystemSharedMemoryStatusRequest())
    assert (status.regions["region"].key, status.regions["region"].byte_size) == (f"/{region.name}", 3096)
    output = placed(images, 1)
    in_region(output.outputs.add(name="output"), 0, 8)
    twice = placed(images, 1)
    twice.inputs[0].contents.fp32_contents.extend([0.0] * 16)
    for call, request, text in (
        (stub.ModelInfer, placed(images, 1, region="other"), "no region is registered as 'other'"),
        (stub.ModelInfer, placed(images, 1, size=60), "input is 64 bytes, shared_memory_byte_size says 60"),
        (stub.ModelInfer, placed(images, 1, offset=3096 - 60), "not within the region"),
        (stub.ModelInfer, placed(images, 1, offset=-4), "not within the region"),
        (stub.ModelInfer, placed(images, 1, offset=2), "float32 does not begin at byte 1002"),
        (stub.ModelInfer, output, "output is 12 bytes, shared_memory_byte_size says 8"),
        (stub.ModelInfer, twice, "given twice"),
        (stub.SystemSharedMemoryRegister, registering(region, "region"), "already: unregister it first"),
        (stub.SystemSharedMemoryRegister, registering(region, "x", byte_size=5000), "has 4096 bytes, not 0 + 5000"),
        (stub.SystemSharedMemoryRegister, registering(region, "x", offset=9000, byte_size=1), "has 4096 bytes"),
        (stub.SystemSharedMemoryRegister, registering(region, "x", key="/nothing"), "No such file"),
        (stub.SystemSharedMemoryRegister, registering(region, "x", key=f"/../..{tmp_path}"), "a key like '/name'"),
        (stub.SystemSharedMemoryRegister, registering(region, "", key="/x"), "a region has a name"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call(request)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert text in caught.value.details()
    with pytest.raises(grpc.RpcError) as caught:
        stub.SystemSharedMemoryStatus(oip.SystemSharedMemoryStatusRequest(name="other"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_shared_memory_that_changes_is_mapped_again(stub: Any, images: str, region: shared_memory.SharedMemory) -> None:
    """A client may remove its memory, or make another of the same name, without a word."""
    np.ndarray((1, 1, 4, 4), np.float32, region.buf, 1000)[...] = 1
    path = Path("/dev/shm", region.name)

    def first() -> float:
        return float(np.frombuffer(stub.ModelInfer(placed(images, 1)).raw_output_contents[0], np.float32)[0])

    assert first() == 1
    path.rename(path.with_suffix(".old"))
    with pytest.raises(grpc.RpcError, match="No such file"):
        first()
    path.write_bytes(np.full(1024, 2, np.float32).tobytes())
    assert first() == 2
    path.write_bytes(bytes(1024))
    with pytest.raises(grpc.RpcError, match="has 1024 bytes: too few for input"):
        first()
    path.with_suffix(".old").rename(path)
    assert first() == 1


def test_shared_memory_is_for_this_machine() -> None:
    memory = shared_memory.SharedMemory(create=True, size=64)
    try:
        for peer, is_local in (
            ("ipv4:127.0.0.1:4000", True),
            ("ipv6:%5B::1%5D:4000", True),
            ("unix:", True),
            ("ipv4:10.0.0.2:4000", False),
        ):
            context = SimpleNamespace(peer=lambda peer=peer: peer)
            with contextlib.nullcontext() if is_local else pytest.raises(Refused, match="over loopback"):
                Regions().add(registering(memory, "x"), context)  # type: ignore[arg-type]
    finally:
        memory.close()
        memory.unlink()


def test_a_worker_that_dies_is_unavailable_once(runtime: tuple[str, Path], stub: Any, images: str) -> None:
    request = asking(images, np.ones((1, 1, 4, 4), np.float32), True)
    stub.ModelInfer(request)
    info = stub.ServerMetadata(oip.ServerMetadataRequest())
    assert "system_shared_memory" in info.extensions
    service = next(one for one in psutil.Process().children() if str(runtime[1]) in one.cmdline())
    worker = max(service.children(), key=lambda one: len(one.cmdline()))  # the builder has no memory for tensors
    worker.suspend()
    waiting = stub.ModelInfer.future(request)
    time.sleep(0.5)
    worker.kill()
    with pytest.raises(grpc.RpcError) as caught:
        waiting.result()
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE and "another is started" in caught.value.details()
    assert len(stub.ModelInfer(request).raw_output_contents) == 1


def test_statistics_count_what_was_done(runtime: tuple[str, Path], stub: Any) -> None:
    model = build(runtime, image_model().replace(b"output", b"logits"), IMAGE)
    array = np.zeros((2, 1, 4, 4), np.float32)
    stub.ModelInfer(asking(model, array, True))
    with pytest.raises(grpc.RpcError):
        stub.ModelInfer(asking(model, array, True, "wrong"))
    (own,) = stub.ModelStatistics(oip.ModelStatisticsRequest(name=model)).model_stats
    assert (own.inference_count, own.execution_count) == (2, 1)
    times = own.inference_stats
    assert (times.success.count, times.fail.count, times.compute_infer.count) == (1, 1, 1)
    assert 0 < times.compute_infer.ns < times.success.ns


def test_reflection_and_health_know_it(runtime: tuple[str, Path]) -> None:
    with grpc.insecure_channel(runtime[0]) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert "inference.GRPCInferenceService" in database.get_services()
        file = database.FindFileContainingSymbol("inference.GRPCInferenceService")
        assert "ModelInfer" in {method.name for method in file.service[0].method}
        request = health_pb2.HealthCheckRequest(service="inference.GRPCInferenceService")
        assert health_pb2_grpc.HealthStub(channel).Check(request).status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.long
def test_tritonclient_works_unchanged(runtime: tuple[str, Path], images: str, tmp_path: Path) -> None:
    """From an environment of its own: its protobuf and ours cannot share one."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv/bin/python")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "tritonclient[grpc]==2.73.0"]
    if (got := subprocess.run(install, capture_output=True, text=True)).returncode:
        pytest.skip(f"skipped: tritonclient cannot be installed: {got.stderr.strip().splitlines()[-1]}")
    script = Path(__file__).with_name("triton_client.py")
    done = subprocess.run([python, str(script), runtime[0], images], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert (seen["live"], seen["ready"], seen["unknown_ready"]) == (True, True, False)
    np.testing.assert_allclose(seen["one"], [[7.5, 15, 22.5]], rtol=1e-5)
    np.testing.assert_allclose(seen["two"], [[7.5, 15, 22.5], [23.5, 47, 70.5]], rtol=1e-5)
    wrong = ["INVALID_ARGUMENT", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"]
    assert seen["codes"] == [f"StatusCode.{name}" for name in wrong]
    (output,) = seen["metadata"]["outputs"]
    assert output == {"name": "output", "datatype": "FP32", "shape": ["-1", "3"]}
    assert (seen["config"]["max_batch_size"], seen["config"]["backend"]) == (BATCH, "onnxruntime")
    assert seen["shared"] == pytest.approx(np.array(seen["two"]))
    assert seen["counted"] == 5
    assert images in {entry["name"] for entry in seen["index"]}
