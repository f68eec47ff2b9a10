"""What the Open Inference Protocol adds to an engine's own call, and how it holds under load.

    python benchmarks/load.py [SECONDS]

For each CPU backend a service builds two engines of a small network at 8 images of 3 x 224 x 224: one of few and one of
many operations. First `Measure` gives the median of the engine's own call. Then one client sends the same batch as
bytes and through shared memory; last, 64 clients in processes of their own send it through shared memory for SECONDS
(default 60). Prints ratios and the memory of service and workers; writes results/load.json.
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import torch

from pqbench.common.v1.common_pb2 import Artifact, Form, Images, Precision, Preprocessing
from pqbench.inference import open_inference_pb2 as oip
from pqbench.inference import open_inference_pb2_grpc
from pqbench.runtime.v1 import runtime_pb2 as pb
from pqbench.runtime.v1 import runtime_pb2_grpc
from pqbench_compressor.export import to_onnx, to_pt2
from pqbench_wire.blobs import BlobStore
from pqbench_wire.client import Client
from pqbench_wire.process import versions_of

RESULT = Path(__file__).parent / "results" / "load.json"
BACKENDS = {"onnxruntime": Form.FORM_ONNX, "openvino": Form.FORM_ONNX, "pytorch": Form.FORM_PT2}
WIDTHS = {"few operations": 8, "many operations": 64}
SHAPE = (8, 3, 224, 224)
PIXELS = Preprocessing(height=224, width=224, channels=3, mean=[0.5] * 3, std=[0.5] * 3)
CLIENTS, PROCESSES, ALONE = 64, 4, 100  # clients in all; processes that hold them; calls of a client alone
LIMITS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class Net(torch.nn.Module):
    """Three convolutions of a width, of which the first two halve the image twice, and a classifier."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers: list[torch.nn.Module] = []
        for inputs, outputs, stride in ((3, width, 4), (width, 2 * width, 2), (2 * width, 2 * width, 1)):
            layers += [torch.nn.Conv2d(inputs, outputs, 3, stride, 1), torch.nn.ReLU()]
        pool = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(2 * width, 1000)]
        self.layers = torch.nn.Sequential(*layers, *pool)

    def forward(self, x: torch.Tensor) -> Any:
        """[N, 3, 224, 224] to [N, 1000]."""
        return self.layers(x)


def main(seconds: float) -> None:
    """Measure all backends and write the result."""
    rows = []
    for backend in BACKENDS:
        with tempfile.TemporaryDirectory() as folder, service(Path(folder)) as (address, pid):
            for network, width in WIDTHS.items():
                found = one(Engine(address, Path(folder), backend, width), pid, seconds)
                rows.append({"backend": backend, "network": network} | found)
                print(backend, network, json.dumps(found))
    versions = versions_of("onnxruntime", "openvino", "torch", "grpcio")
    machine = {"machine": platform.platform(), "cores": multiprocessing.cpu_count(), "versions": versions}
    result = {"date": time.strftime("%Y-%m-%d"), "shape": SHAPE, "seconds": seconds, "clients": CLIENTS}
    RESULT.write_text(json.dumps(result | machine | {"rows": rows}, indent=1) + "\n")


class Engine:
    """A built engine and how to call it."""

    def __init__(self, address: str, data: Path, backend: str, width: int) -> None:
        self.address, self._store, self._client = address, BlobStore(data / "blobs"), Client(address)
        self._stub = runtime_pb2_grpc.RuntimeServiceStub(self._client.channel)
        example, form = np.zeros(SHAPE, np.float32)[:2], BACKENDS[backend]
        program = (to_onnx if form == Form.FORM_ONNX else to_pt2)(Net(width).eval(), example)
        artifact = Artifact(blob=self._store.put(program), form=form, precision=Precision.PRECISION_FP32)
        request = pb.BuildEngineRequest(
            backend=backend,
            options_json='{"threads": 1}',
            artifact=artifact,
            batch_size=SHAPE[0],
            preprocessing=PIXELS,
        )
        built = self._client.result(self._stub.BuildEngine, request)
        self._engine, self.name = built.engine, built.model_name

    def milliseconds(self) -> float:
        """The median of the engine's own call."""
        pixels = np.zeros((SHAPE[0], 224, 224, 3), np.uint8)
        images = Images(images=self._store.put_array(pixels), labels=self._store.put_array(np.zeros(8, np.int64)))
        settings = pb.MeasureSettings(
            warmup_seconds=0.5, min_seconds=3, max_seconds=6, min_iterations=30, windows=6, stability=0.05
        )
        request = pb.MeasureRequest(engines=[self._engine], inputs=images, settings=settings, run=f"load {time.time()}")
        return 1000 * self._client.result(self._stub.Measure, request).timings[0].median


def one(engine: Engine, pid: int, seconds: float) -> dict[str, Any]:
    """All figures of one engine."""
    own, as_bytes, shared = engine.milliseconds(), alone(engine, sent), alone(engine, placed)
    end_kept()
    again = engine.milliseconds()
    under_load(engine, min(10, seconds))  # the first calls allocate what later ones use again
    before = memory(pid)
    codes = under_load(engine, seconds)
    own = statistics.median((own, again))
    answered = codes.pop("OK", 0)
    return {
        "own_ms": own,
        "bytes_ms": as_bytes,
        "shared_memory_ms": shared,
        "bytes_ratio": as_bytes / own,
        "shared_memory_ratio": shared / own,
        "calls_per_s": answered / seconds,
        "throughput_ratio": answered / seconds * own / 1000,
        "errors": dict(codes),
        "memory_mb": [before / 1e6, memory(pid) / 1e6],
    }


def alone(engine: Engine, ask: Callable[[Any, str], Callable[[], Any]]) -> float:
    """The median milliseconds of a client without others."""
    with grpc.insecure_channel(engine.address, LIMITS) as channel:
        call, times = ask(open_inference_pb2_grpc.GRPCInferenceServiceStub(channel), engine.name), []
        for index in range(ALONE + 10):
            begin = time.perf_counter()
            call()
            if index >= 10:
                times.append(time.perf_counter() - begin)
    return 1000 * statistics.median(times)


def sent(stub: Any, model: str) -> Callable[[], Any]:
    """A call whose batch is in the message."""
    batch = np.zeros(SHAPE, np.float32)

    def call() -> Any:
        request = oip.ModelInferRequest(model_name=model, raw_input_contents=[batch.tobytes()])
        request.inputs.add(name="input", datatype="FP32", shape=SHAPE)
        return np.frombuffer(stub.ModelInfer(request).raw_output_contents[0], np.float32)

    return call


def placed(stub: Any, model: str) -> Callable[[], Any]:
    """A call whose batch is in memory that client and service share, by Triton's protocol."""
    size = int(np.prod(SHAPE)) * 4
    memory = shared_memory.SharedMemory(create=True, size=size)
    KEPT.append(memory)
    batch = np.ndarray(SHAPE, np.float32, memory.buf)
    registered = oip.SystemSharedMemoryRegisterRequest(name=memory.name, key=f"/{memory.name}", byte_size=size)
    stub.SystemSharedMemoryRegister(registered)

    def call() -> Any:
        batch[0, 0, 0, 0] = 1  # a client writes its own pixels
        request = oip.ModelInferRequest(model_name=model)
        given = request.inputs.add(name="input", datatype="FP32", shape=SHAPE)
        given.parameters["shared_memory_region"].string_param = memory.name
        given.parameters["shared_memory_byte_size"].int64_param = size
        return np.frombuffer(stub.ModelInfer(request).raw_output_contents[0], np.float32)

    return call


KEPT: list[shared_memory.SharedMemory] = []  # until the process ends


def under_load(engine: Engine, seconds: float) -> Counter[str]:
    """How many calls of all clients together ended with each status."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(PROCESSES) as pool:
        given = [(engine.address, engine.name, seconds)] * PROCESSES
        return sum(pool.starmap(clients, given, chunksize=1), Counter())


def clients(address: str, model: str, seconds: float) -> Counter[str]:
    """The clients of one process, each a thread with a connection of its own."""
    codes: Counter[str] = Counter()
    lock = threading.Lock()

    def client() -> None:
        own: Counter[str] = Counter()
        options = [*LIMITS, ("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(address, options) as channel:
            call = placed(open_inference_pb2_grpc.GRPCInferenceServiceStub(channel), model)
            while time.time() < end:
                try:
                    call()
                    own["OK"] += 1
                except grpc.RpcError as error:
                    own[error.code().name] += 1
        with lock:
            codes.update(own)

    end = time.time() + seconds
    threads = [threading.Thread(target=client) for _ in range(CLIENTS // PROCESSES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    end_kept()
    return codes


def end_kept() -> None:
    """Remove the clients' memory."""
    while KEPT:
        KEPT.pop().unlink()


@contextmanager
def service(data: Path) -> Iterator[tuple[str, int]]:
    """A runtime in a process of its own: its address and process id."""
    command = [sys.executable, "-m", "pqbench_runtime", "--data", str(data)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["listening"], process.pid
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def memory(pid: int) -> int:
    """Bytes of a process and its children that are their own: not files, and not what clients share with them."""
    children = [
        child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    total = 0
    for one in (str(pid), *children):
        lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        total += 1024 * int(next(line for line in lines if line.startswith("Anonymous:")).split()[1])
    return total


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 60)
