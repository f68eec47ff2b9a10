"""What is fuzzed: each target makes its seeds and tries one input; an input is taken or refused with a typed error."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import random
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import Message

from pqbench.common.v1.common_pb2 import Artifact, Blob, Form, Images, Precision, Preprocessing
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import Internal, PqbenchError
from pqbench_wire.status import from_rpc_error

from .mutate import mutated

Try = Callable[[bytes], object]
Target = tuple[Sequence[bytes], Try]
ROOT = Path(__file__).parents[2]
PREPROCESSING = Preprocessing(height=8, width=8, channels=3, mean=[0.5] * 3, std=[0.25] * 3)
CALL_SECONDS = 60.0


@contextmanager
def onnx(folder: Path) -> Iterator[Target]:
    """A user's ONNX file: read, and brought into the form that quantizers take."""
    from pqbench_compressor import normal_form
    from pqbench_wire.shared.onnx_walk import external_locations

    def attempt(data: bytes) -> None:
        file = folder / "m.onnx"
        file.write_bytes(data)
        external_locations(file)
        normal_form.normalised("m", normal_form.read("m", data, {}))

    yield [_network(), _network(quantized=True)], attempt


@contextmanager
def manifests(folder: Path) -> Iterator[Target]:
    from pqbench_orchestrator.config.load import load_manifest

    seeds = [path.read_bytes() for path in sorted((ROOT / "data/manifests").glob("*.yaml"))]
    yield seeds, _by_file(folder / "m.yaml", load_manifest)


@contextmanager
def inventories(folder: Path) -> Iterator[Target]:
    from pqbench_orchestrator.config.inventory import load_inventory
    from pqbench_orchestrator.config.load import load_manifest

    manifest = load_manifest(ROOT / "data/manifests/quickstart.yaml")
    seeds = [path.read_bytes() for path in sorted((ROOT / "data/inventories").glob("*.yaml"))]
    yield seeds, _by_file(folder / "i.yaml", lambda path: load_inventory(path, manifest))


@contextmanager
def ini(folder: Path) -> Iterator[Target]:
    from pqbench_orchestrator.config.thesis import load_ini

    yield [(ROOT / "tests/data/config.ini").read_bytes()], _by_file(folder / "config.ini", load_ini)


@contextmanager
def images(folder: Path) -> Iterator[Target]:
    from PIL import Image

    from pqbench_orchestrator.dataset import fit
    from pqbench_orchestrator.datasets._files import open_image

    rng, seeds = np.random.default_rng(0), []
    for kind, mode in itertools.product(("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM"), ("RGB", "L")):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).convert(mode).save(file, kind)
        seeds.append(file.getvalue())
    yield seeds, _by_file(folder / "picture", lambda path: fit(open_image(path), PREPROCESSING))


@contextmanager
def checkpoints(folder: Path) -> Iterator[Target]:
    """Weights that a user gives, and checkpoints between steps."""
    import torch

    from pqbench_compressor import checkpoint, weights

    def module() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 2, 1))

    pickled, smaller = io.BytesIO(), torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Conv2d(2, 2, 1))  # fmt: skip
    torch.save({"state_dict": module().state_dict(), "epoch": 3}, pickled)

    def attempt(path: Path) -> None:
        with suppress(PqbenchError):
            weights.load(path, module())
        checkpoint.load(path, module())

    yield [checkpoint.save(smaller, module(), []), pickled.getvalue()], _by_file(folder / "w", attempt)


@contextmanager
def pt2(folder: Path) -> Iterator[Target]:
    """Archives of torch.export, as bytes and by their JSON."""
    import torch

    from pqbench_compressor import export
    from pqbench_runtime.backends._pt2 import rebuild

    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(144, 5)
    )
    seed = export.to_pt2(module, np.zeros((3, 3, 8, 8), np.float32))
    chance = random.Random(0)

    def attempt(data: bytes) -> None:
        rebuild(data)

    def by_member(data: bytes) -> None:
        with suppress(PqbenchError):
            attempt(data)
        attempt(_with_changed_member(seed, chance))

    yield [seed], by_member


@contextmanager
def engines(folder: Path) -> Iterator[Target]:
    """Engine files as a worker loads them; one that crashes native code ends the worker, which is told and replaced."""
    from pqbench.runtime.v1.runtime_pb2 import BuildEngineRequest, PredictRequest
    from pqbench.runtime.v1.worker_pb2 import WorkerRequest
    from pqbench_runtime.workers import start_worker
    from pqbench_wire.shared.inputs import store_inputs

    store = BlobStore(folder / "blobs")
    inputs = store_inputs(store, np.zeros((2, 8, 8, 3), np.uint8))
    built, seeds = {}, []
    worker = start_worker(store.root)
    for backend in ("onnxruntime", "openvino"):
        artifact = Artifact(blob=store.put(_network()), form=Form.FORM_ONNX, precision=Precision.PRECISION_FP32)
        request = BuildEngineRequest(
            backend=backend, options_json="{}", artifact=artifact, batch_size=2, preprocessing=PREPROCESSING
        )
        engine = worker.ask(WorkerRequest(build=request), lambda reply: None).build.engine
        seeds.append(store.read(engine.blob))
        built[backend] = engine
    turn = itertools.cycle(built.values())

    def attempt(data: bytes) -> None:
        nonlocal worker
        engine = next(turn)
        engine.blob.CopyFrom(store.put(data))
        try:
            worker.ask(WorkerRequest(predict=PredictRequest(engine=engine, inputs=inputs)), lambda reply: None)
        finally:
            store.path(engine.blob).unlink()
            if not worker.alive:
                worker.close()
                worker = start_worker(store.root)

    yield seeds, attempt
    worker.close()


@contextmanager
def requests(folder: Path) -> Iterator[Target]:
    """Requests of every RPC of both services, sent as bytes to real processes."""
    with _service("pqbench_compressor", folder) as compressor, _service("pqbench_runtime", folder) as runtime:
        seeds, methods = [], []
        for channel, name, request in _calls(compressor, runtime, BlobStore(folder / "blobs")):
            seeds.append(request.SerializeToString())
            methods.append((channel, name, request))
        turn = itertools.cycle(range(len(methods)))

        def attempt(data: bytes) -> None:
            channel, (path, takes_stream, streams), request = methods[next(turn)]
            chance = random.Random(data)
            data = mutated(chance, [request.SerializeToString()]) if chance.random() < 0.3 else _odd(request, chance)
            call = channel.stream_unary if takes_stream else channel.unary_stream if streams else channel.unary_unary
            try:
                answer = call(path)(iter([data]) if takes_stream else data, timeout=CALL_SECONDS)
                for _ in answer if streams else ():
                    pass
            except grpc.RpcError as error:
                typed = from_rpc_error(error)
                if isinstance(typed, Internal):  # with the traceback of the service
                    typed.add_note("".join(log.read_text()[-3000:] for log in folder.glob("*.log")))
                raise typed from None

        yield seeds, attempt


TARGETS = {
    one.__name__: one for one in (onnx, requests, manifests, inventories, checkpoints, images, ini, engines, pt2)
}


def _by_file(path: Path, use: Callable[[Path], object]) -> Try:
    def attempt(data: bytes) -> None:
        path.write_bytes(data)
        use(path)

    return attempt


def _network(quantized: bool = False) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((4, 3, 3, 3)).astype(np.float32), "w"),
        numpy_helper.from_array(rng.standard_normal(4).astype(np.float32), "b"),
        numpy_helper.from_array(np.float32(0.1), "scale"), numpy_helper.from_array(np.uint8(3), "zero"),
    ]  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"]),
        helper.make_node("Conv", ["x" if quantized else "input", "w", "b"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes if quantized else nodes[2:], "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", 4])],
        weights if quantized else weights[:2],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def _with_changed_member(archive: bytes, chance: random.Random) -> bytes:
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as before, zipfile.ZipFile(changed, "w") as after:
        names = before.namelist()
        chosen = chance.choice([name for name in names if name.endswith(".json")])
        for name in names:
            content = before.read(name)
            if name == chosen:
                content = (
                    json.dumps(_changed(json.loads(content), chance)).encode()
                    if chance.random() < 0.7
                    else mutated(chance, [content])
                )
            after.writestr(name, content)
    return changed.getvalue()


NUMBERS = (0, 1, 2, 3, 7, 255, 65_535, 2**31 - 1, 2**32 - 1)
TEXTS = (
    "",
    "x",
    "../../etc/passwd",
    "\x00",
    "é" * 300,
    "{}",
    '{"threads": 1e9}',
    "[" * 5000,
    "float32",
    "object",
    "O",
    "0" * 64,
)


def _odd(request: Message, chance: random.Random) -> bytes:
    """A request with a few fields, however deep, set to what nobody expects."""
    changed = type(request)()
    changed.CopyFrom(request)
    for _ in range(chance.randint(1, 3)):
        _set_odd(changed, chance)
    return changed.SerializeToString()


def _set_odd(message: Message, chance: random.Random) -> None:
    if not message.DESCRIPTOR.fields:
        return
    field = chance.choice(message.DESCRIPTOR.fields)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return
    if field.is_repeated:
        values = getattr(message, field.name)
        if field.message_type is not None:
            _set_odd(chance.choice(values) if values and chance.random() < 0.8 else values.add(), chance)
        else:
            with suppress(ValueError, TypeError):
                values.extend([_odd_value(field, chance)] * chance.choice((1, 2, 1000)))
    elif field.message_type is not None:
        if chance.random() < 0.1:
            message.ClearField(field.name)
        else:
            getattr(message, field.name).SetInParent()
            _set_odd(getattr(message, field.name), chance)
    else:
        with suppress(ValueError, TypeError):  # a number that the field cannot hold
            setattr(message, field.name, _odd_value(field, chance))


def _odd_value(field: Any, chance: random.Random) -> Any:
    kinds: dict[int, Any] = {
        field.CPPTYPE_STRING: b"\xff\x00" if field.type == field.TYPE_BYTES else chance.choice(TEXTS),
        field.CPPTYPE_BOOL: chance.random() < 0.5,
        field.CPPTYPE_FLOAT: chance.choice((0.0, -1.0, float("nan"), float("inf"), 1e30)),
        field.CPPTYPE_DOUBLE: chance.choice((0.0, -1.0, float("nan"), float("inf"), 1e300, 1e-9)),
    }
    return kinds.get(field.cpp_type, chance.choice(NUMBERS))


ODD = (
    None,
    True,
    -1,
    0,
    2**70,
    1.5,
    "",
    "x",
    "__import__('os')",
    [],
    {},
    [[]],
    {"as_int": 1},
    "torch.ops.aten.add.Tensor",
)


def _changed(value: Any, chance: random.Random) -> Any:
    """A JSON value with one value in it replaced, removed or given twice."""
    if isinstance(value, dict) and value and chance.random() < 0.95:
        key = chance.choice(list(value))
        if chance.random() < 0.05:
            return {name: one for name, one in value.items() if name != key}
        return value | {key: _changed(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.95:
        at = chance.randrange(len(value))
        return [*value[:at], _changed(value[at], chance), *value[at + 1 :]]
    return chance.choice(ODD)


@contextmanager
def _service(module: str, folder: Path) -> Iterator[grpc.Channel]:
    command = [sys.executable, "-m", module, "--data", str(folder), "--locks", str(folder / "locks")]
    with (
        Path(folder, f"{module}.log").open("wb") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        assert process.stdout is not None
        with grpc.insecure_channel(json.loads(process.stdout.readline())["listening"]) as channel:
            yield channel
        assert process.poll() is None, f"{module} has ended with exit code {process.returncode}"
        process.terminate()


def _calls(
    compressor: grpc.Channel, runtime: grpc.Channel, store: BlobStore
) -> Iterator[tuple[grpc.Channel, tuple[str, bool, bool], Message]]:
    """Channel, path with what it streams, and a request that works, of every RPC."""
    from pqbench.blob.v1 import blob_pb2
    from pqbench.compressor.v1 import compressor_pb2
    from pqbench.inference import open_inference_pb2 as oip
    from pqbench.runtime.v1 import runtime_pb2

    split = Images(
        images=store.put_array(np.zeros((4, 8, 8, 3), np.uint8)), labels=store.put_array(np.zeros(4, np.int64))
    )
    model = compressor_pb2.Model(plugin="onnx", name="m.onnx", code=store.put(_network()), preprocessing=PREPROCESSING)
    steps = [compressor_pb2.Step(kind="quantize", plugin="int8-static", config_json='{"images": 2}')]
    artifact = Artifact(blob=store.put(_network()), form=Form.FORM_ONNX, precision=Precision.PRECISION_FP32)
    engine = runtime_pb2.Engine(backend="onnxruntime", options_json="{}", blob=artifact.blob, batch_size=2,
                                precision=Precision.PRECISION_FP32, preprocessing=PREPROCESSING)  # fmt: skip
    settings = runtime_pb2.MeasureSettings(warmup_seconds=0.001, min_seconds=0.002, max_seconds=0.004, min_iterations=6,
                                           stability=0.05, windows=6, discard=1)  # fmt: skip
    timed = {"engine": engine, "inputs": split, "seconds": 0.01, "run": "fuzz"}
    made: dict[str, Message] = {
        "CompressorService/GetCapabilities": compressor_pb2.GetCapabilitiesRequest(),
        "CompressorService/Check": compressor_pb2.CheckRequest(model=model, steps=steps),
        "CompressorService/Compress": compressor_pb2.CompressRequest(
            model=model, steps=steps, forms=[Form.FORM_QDQ_UNSIGNED], training=split, verification=split),
        "CompressorService/Analyse": compressor_pb2.AnalyseRequest(model=model, training=split, verification=split, images=2),
        "RuntimeService/GetCapabilities": runtime_pb2.GetCapabilitiesRequest(backends=["onnxruntime"]),
        "RuntimeService/Check": runtime_pb2.CheckRequest(backend="onnxruntime", options_json='{"threads": 1}'),
        "RuntimeService/BuildEngine": runtime_pb2.BuildEngineRequest(
            backend="onnxruntime", options_json="{}", artifact=artifact, batch_size=2, preprocessing=PREPROCESSING),
        "RuntimeService/Measure": runtime_pb2.MeasureRequest(engines=[engine], inputs=split, settings=settings, run="fuzz"),
        "RuntimeService/Predict": runtime_pb2.PredictRequest(engine=engine, inputs=split),
        "RuntimeService/Profile": runtime_pb2.ProfileRequest(**timed),
        "RuntimeService/CrossCheck": runtime_pb2.CrossCheckRequest(**timed),
        "RuntimeService/TryArtifact": runtime_pb2.TryArtifactRequest(
            backend="onnxruntime", artifact=artifact, preprocessing=PREPROCESSING, inputs=split,
            reference=store.put_array(np.zeros((4, 4), np.float32)), batch_sizes=[1, 3], least_db=-10),
        "RuntimeService/Unload": runtime_pb2.UnloadRequest(),
        "BlobService/FindMissing": blob_pb2.FindMissingRequest(blobs=[artifact.blob, Blob(sha256="0" * 64, size=1)]),
        "BlobService/Write": blob_pb2.WriteRequest(blob=Blob(sha256=hashlib.sha256(b"x").hexdigest(), size=1), chunk=b"x"),
        "BlobService/Read": blob_pb2.ReadRequest(blob=artifact.blob),
        "GRPCInferenceService/ModelInfer": oip.ModelInferRequest(model_name="x", raw_input_contents=[bytes(16)]),
        "GRPCInferenceService/ModelMetadata": oip.ModelMetadataRequest(name="x"),
        "GRPCInferenceService/ModelStatistics": oip.ModelStatisticsRequest(name="x"),
        "GRPCInferenceService/RepositoryIndex": oip.RepositoryIndexRequest(),
    }  # fmt: skip
    services = [file.services_by_name[name] for file, name in (
        (compressor_pb2.DESCRIPTOR, "CompressorService"), (runtime_pb2.DESCRIPTOR, "RuntimeService"),
        (blob_pb2.DESCRIPTOR, "BlobService"), (oip.DESCRIPTOR, "GRPCInferenceService"))]  # fmt: skip
    for service in services:
        for method in service.methods:
            request = made.pop(f"{service.name}/{method.name}", None)
            if request is None:  # what the inference service does not implement
                continue
            channel = compressor if service.name == "CompressorService" else runtime
            path = f"/{service.full_name}/{method.name}"
            yield channel, (path, method.client_streaming, method.server_streaming), request
    assert not made, made


def quietly() -> None:
    """Libraries warn of what they meet."""
    warnings.simplefilter("ignore")


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for a target's files."""
    return tempfile.TemporaryDirectory(prefix="pqbench-fuzz-")
