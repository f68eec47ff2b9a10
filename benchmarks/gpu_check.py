"""Everything of pqbench that an NVIDIA machine's libraries allow, checked for right outputs and timed: make gpu-check

    python benchmarks/gpu_check.py [--out FILE.json] [--seconds 1.0] [--batches 1 32] [--precisions fp32 tf32 fp16 bf16]

It needs a GPU, its driver and a Python with numpy and torch; more libraries (protobuf and pydantic, onnxruntime-gpu,
tensorrt) let it check more. What is not there is a line with its reason. Each check stands for itself: one that ends
with an unexpected error keeps its traceback in the JSON, which is written after every check.
Exit code 1: an output was wrong, or a check ended with an error; 2: no GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import itertools
import json
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
# No installation is needed.
sys.path[:0] = [str(ROOT / "proto/src"), str(ROOT / "services/runtime/src"), str(ROOT / "services/compressor/src")]

from pqbench_runtime import cuda  # noqa: E402
from pqbench_runtime.device_call import DeviceCall  # noqa: E402
from pqbench_wire.errors import PqbenchError, Unavailable, first_line  # noqa: E402

MB = 1_000_000
LIBRARIES = ("torch", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "protobuf", "pydantic")
BACKENDS = (
    "pytorch-cuda", "onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx", "tensorrt", "tensorrt-rtx",
)  # fmt: skip
MIN_SQNR = {"fp32": 60.0, "tf32": 35.0, "fp16": 35.0, "bf16": 18.0}  # dB against the CPU's FP32


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line says."""

    out: Path
    seconds: float  # of each measurement
    batches: list[int]
    precisions: list[str]  # of PyTorch's checks


@dataclass(kw_only=True)
class Check:
    """One line: what was checked, how it ended, what was measured (ms, GB/s, dB)."""

    name: str
    outcome: str = "ok"  # ok, wrong, unavailable, error
    note: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    traceback: str = ""


Work = Callable[[Check], None]  # fills in the check, or raises


def sqnr(reference: np.ndarray, output: np.ndarray) -> float:
    """Signal over noise in dB; equal outputs give 300."""
    noise = float(((reference - output) ** 2).sum())
    return 300.0 if noise == 0 else float(10 * np.log10((reference**2).sum() / noise))


def medians(call: DeviceCall, seconds: float) -> dict[str, float]:
    """Medians of host latency and of the parts by the device's events, in ms."""
    for _ in range(10):
        call()
    samples: dict[str, list[float]] = {"latency": []}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(samples["latency"]) < 30:
        begin = time.perf_counter()
        call()
        samples["latency"].append(time.perf_counter() - begin)
        for part, spent in call.device_times().items():
            samples.setdefault(part, []).append(spent)
    return {f"{part} ms": 1e3 * float(np.median(values)) for part, values in samples.items()}


def planned(options: Options) -> Iterator[tuple[str, Work]]:
    """Every check by its name, in the order in which they are made."""
    yield "copies by ctypes", check_copies
    for batch, precision, graph in itertools.product(options.batches, options.precisions, (False, True)):
        name = f"pytorch {precision} {'graph' if graph else 'eager'}, batch {batch}"
        yield name, functools.partial(check_torch, options.seconds, batch, precision, graph)
    yield "pytorch 2:4 linear 4096x4096, batch 512, fp16", check_sparsity
    for backend, batch in itertools.product(BACKENDS, options.batches):
        yield (
            f"backend {backend} FP32, batch {batch}",
            functools.partial(check_backend, options.seconds, backend, batch),
        )


def attempted(name: str, work: Work) -> Check:
    """A check, however it ends."""
    check = Check(name=name)
    try:
        work(check)
    except (Unavailable, ImportError) as error:
        check.outcome, check.note = "unavailable", first_line(error)
    except Exception as error:
        check.outcome, check.note, check.traceback = "error", first_line(error), traceback.format_exc()
        check.traceback = check.traceback.replace(f"{ROOT}/", "")
    return check


def check_copies(check: Check) -> None:
    """Copies there and back are exact; their speed by the device's events."""
    stream, begin, end = cuda.Stream(), cuda.Event(spin=True), cuda.Event(spin=True)
    tensor = cuda.Tensor((64 * MB // 4,), np.dtype(np.int32))
    pattern = np.random.default_rng(0).integers(0, 2**31, tensor.host.shape, dtype=np.int32)
    np.copyto(tensor.host, pattern)
    for name, copy in (("H2D GB/s", tensor.upload), ("D2H GB/s", tensor.download)):
        spent = []
        for _ in range(10):
            begin.record(stream)
            copy(stream)
            end.record(stream)
            end.synchronize()
            spent.append(end.since(begin))
        check.figures[name] = tensor.bytes / 1e9 / max(1e-9, float(np.median(spent)))
        if name.startswith("H2D"):
            tensor.host[:] = 0
    if not np.array_equal(tensor.host, pattern):
        check.outcome, check.note = "wrong", "what came back is not what was sent"


def network(torch: Any) -> Any:
    """A residual network and a transformer block behind it: convolutions, matrix products, normalisations."""
    nn = torch.nn

    class Block(nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self, width: int) -> None:
            super().__init__()
            self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
            self.norm = nn.BatchNorm2d(width)

        def forward(self, x: Any) -> Any:
            return torch.relu(x + self.second(torch.relu(self.norm(self.first(x)))))

    class Network(nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 128, 7, stride=4, padding=3)
            self.blocks = nn.Sequential(*(Block(128) for _ in range(4)))
            self.up, self.down = nn.Linear(128, 512), nn.Linear(512, 128)
            self.norm, self.head = nn.LayerNorm(128), nn.Linear(128, 64)

        def forward(self, x: Any) -> Any:
            x = self.blocks(self.stem(x)).flatten(2).transpose(1, 2)
            x = x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))
            return self.head(x.mean(1))

    torch.manual_seed(0)
    return Network().eval()


class TorchCall:
    """A module as a DeviceCall, eagerly or as a captured graph."""

    def __init__(self, torch: Any, module: Any, images: np.ndarray, dtype: Any, graph: bool, device: str) -> None:
        self._torch, self._module, self._dtype = torch, module, dtype
        self._stream = cuda.Stream()
        self._queue = torch.cuda.ExternalStream(self._stream.handle.value)
        self._host = cuda.Pinned(images.shape, images.dtype)
        np.copyto(self._host.host, images)
        self._input = torch.from_numpy(images).to(device)
        for _ in range(3):
            self._run()
        self._stream.synchronize()
        self._output = cuda.Pinned(tuple(self._result.shape), np.dtype(np.float32))
        compute: Callable[[], None] = self._run
        if graph:
            made = torch.cuda.CUDAGraph()
            with torch.cuda.graph(made, stream=self._queue, capture_error_mode="thread_local"):
                self._run()

            def compute() -> None:
                with torch.cuda.stream(self._queue):
                    made.replay()

        outputs = [self._output.host]
        self.call = DeviceCall(self._stream, self._up, compute, self._down, outputs, transfers=True, spin=True)

    def _run(self) -> None:
        torch = self._torch
        with torch.cuda.stream(self._queue), torch.inference_mode():
            self._result = self._module(self._input.to(self._dtype)).float()

    def _up(self) -> None:
        with self._torch.cuda.stream(self._queue):
            self._input.copy_(self._torch.from_numpy(self._host.host), non_blocking=True)

    def _down(self) -> None:
        with self._torch.cuda.stream(self._queue):
            self._torch.from_numpy(self._output.host).copy_(self._result, non_blocking=True)


def check_torch(seconds: float, batch: int, precision: str, graph: bool, check: Check) -> None:
    """A network in one precision, eager or as a graph, against the CPU's FP32."""
    import torch

    images = np.random.default_rng(1).standard_normal((batch, 3, 128, 128)).astype(np.float32)
    with torch.inference_mode():
        reference = network(torch)(torch.from_numpy(images)).numpy()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
    loaded = TorchCall(torch, network(torch).to(dtype).to("cuda"), images, dtype, graph, "cuda")
    figures = medians(loaded.call, seconds)
    noise = sqnr(reference, np.array(loaded.call()[0]))
    check.figures = figures | {"SQNR dB": noise}
    if noise < (least := MIN_SQNR[precision]):
        check.outcome, check.note = "wrong", f"SQNR {noise:.1f} dB, at least {least:.0f} is wanted"
    parts = sum(value for name, value in figures.items() if name != "latency ms")
    if parts > 1.2 * figures["latency ms"] + 0.05:
        check.outcome, check.note = "wrong", "the device's parts are longer than the host's latency"


def check_sparsity(check: Check) -> None:
    """A 2:4 sparse linear layer on sparse tensor cores against the dense one with the same zeros."""
    import torch

    weight = torch.randn(4096, 4096, generator=torch.Generator().manual_seed(0)).half()
    weight[:, ::4] = weight[:, 1::4] = 0
    x = torch.randn(512, 4096, generator=torch.Generator().manual_seed(1)).half()
    dense, inputs = weight.to("cuda"), x.to("cuda")
    try:
        sparse = torch.sparse.to_sparse_semi_structured(dense)
        wanted, got = (torch.nn.functional.linear(inputs, w).float().cpu().numpy() for w in (dense, sparse))
    except (RuntimeError, NotImplementedError, ValueError, AssertionError) as error:
        raise Unavailable(f"no 2:4 sparsity here: {first_line(error)}") from error
    check.figures["SQNR dB"] = noise = sqnr(wanted, got)
    if noise < 40:
        check.outcome, check.note = "wrong", "sparse and dense differ"
    for name, w in (("dense ms", dense), ("sparse ms", sparse)):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(10):
            torch.nn.functional.linear(inputs, w)
        begin.record()
        for _ in range(100):
            torch.nn.functional.linear(inputs, w)
        end.record()
        torch.cuda.synchronize()
        check.figures[name] = begin.elapsed_time(end) / 100


def check_backend(seconds: float, name: str, batch: int, check: Check) -> None:
    """A backend of pqbench in FP32, in its own form: built, measured by the worker, outputs against the CPU's."""
    import torch

    from pqbench.common.v1.common_pb2 import Artifact, Images, Precision, Preprocessing
    from pqbench.runtime.v1 import runtime_pb2 as pb
    from pqbench.runtime.v1.worker_pb2 import WorkerRequest
    from pqbench_runtime.backend import BACKENDS, Attempted
    from pqbench_runtime.worker import Worker
    from pqbench_wire.blobs import BlobStore
    from pqbench_wire.shared.inputs import normalise

    if why := BACKENDS.missing(name):
        raise Unavailable(why)
    backend = BACKENDS.load(name)
    backend.device(backend.Config())
    if isinstance(backend, Attempted):
        backend.attempt(backend.Config())
    route = next(one for one in backend.ROUTES if one.precision == Precision.PRECISION_FP32)
    shape = Preprocessing(height=128, width=128, channels=3, mean=[0.5] * 3, std=[0.25] * 3)
    pixels = np.random.default_rng(2).integers(0, 256, (32, 128, 128, 3), dtype=np.uint8)
    with torch.inference_mode():
        reference = network(torch)(torch.from_numpy(normalise(pixels, shape))).numpy()
    with tempfile.TemporaryDirectory() as folder:
        store = BlobStore(Path(folder) / "blobs")
        worker = Worker(store, lambda reply: None)
        images = Images(images=store.put_array(pixels), labels=store.put_array(np.zeros(32, np.int64)))
        artifact = Artifact(blob=store.put(exported(torch, route.form)), form=route.form, precision=route.precision)
        request = pb.BuildEngineRequest(backend=name, options_json="{}", artifact=artifact, batch_size=batch,
                                        preprocessing=shape)  # fmt: skip
        built = worker.handle(WorkerRequest(build=request)).build
        settings = pb.MeasureSettings(
            warmup_seconds=0.2, warmup_iterations=10, min_seconds=seconds, min_iterations=30,
            max_seconds=2 * seconds, stability=0.05, windows=6,
        )  # fmt: skip
        asked = pb.MeasureRequest(engines=[built.engine], inputs=images, settings=settings, run="gpu-check")
        measured = worker.handle(WorkerRequest(measure=asked)).measure
        predict = pb.PredictRequest(engine=built.engine, inputs=images)
        outputs = store.array(worker.handle(WorkerRequest(predict=predict)).predict.outputs)
    timing, noise = measured.timings[0], sqnr(reference, outputs)
    check.note = timing.settings["cuda_graph"]
    check.figures = {"latency ms": timing.median * 1e3, "SQNR dB": noise}
    check.figures |= {f"{part} ms": one.median * 1e3 for part, one in timing.device.items()}
    if watts := [one.power_watts for one in measured.gpu if one.HasField("power_watts")]:
        check.figures["W"] = float(np.mean(watts))
    if noise < MIN_SQNR["tf32"]:
        check.outcome, check.note = "wrong", f"SQNR {noise:.1f} dB"


def exported(torch: Any, form: int) -> bytes:
    """The network in a form, for any batch size: a .pt2 archive, ONNX, or ONNX of opset 17, which TensorRT 8.6 reads.

    8.6 ignores the axes of a reduction where they are an input, as they are from opset 18 on, and says nothing.
    """
    import io

    from pqbench.common.v1.common_pb2 import Form

    module, example = network(torch), torch.zeros(2, 3, 128, 128)
    batch, buffer = torch.export.Dim("batch", min=1, max=65536), io.BytesIO()
    if form == Form.FORM_PT2:
        torch.export.save(torch.export.export(module, (example,), dynamic_shapes=({0: batch},)), buffer)
        return buffer.getvalue()
    torch.onnx.export(module, (example,), input_names=["input"], output_names=["output"], opset_version=18,
                      dynamic_shapes=({0: batch},), dynamo=True, verbose=False).save(buffer)  # fmt: skip
    if form != Form.FORM_ONNX_UNTYPED:
        return buffer.getvalue()
    from pqbench_compressor.opset import lowered

    return lowered(buffer.getvalue())


def environment() -> dict[str, str]:
    """Device, driver and versions."""
    found = {"date": time.strftime("%Y-%m-%d"), "python": platform.python_version(), "os": platform.platform()}
    found["cuda_runtime"], found["compute_capability"] = cuda.runtime_version(), cuda.compute_capability()
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
        found["gpu"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        found["gpu"] = f"not told (no nvidia-smi), {found['compute_capability']}"
    return found


def table(checks: list[Check]) -> str:
    """The checks as lines of text."""
    lines = []
    for check in checks:
        figures = "  ".join(f"{name} {value:.4g}" for name, value in check.figures.items())
        lines.append(f"{check.outcome:11}  {check.name:44}  {figures}  {check.note}".rstrip())
    return "\n".join(lines)


def main() -> int:
    """Check all there is; print a line each; write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/gpu_check.json")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--precisions", nargs="+", choices=list(MIN_SQNR), default=list(MIN_SQNR))
    options = Options(**vars(parser.parse_args()))
    with contextlib.suppress(ImportError):  # it brings CUDA's runtime library along; without it the system's is used
        importlib.import_module("torch")
    try:
        where = environment()
    except PqbenchError as error:
        print(f"gpu-check: no GPU can be used: {error}", file=sys.stderr)
        return 2
    print("\n".join(f"{name}: {value}" for name, value in where.items()), flush=True)
    checks: list[Check] = []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for name, work in planned(options):
        checks.append(attempted(name, work))
        print(table(checks[-1:]), flush=True)
        found = {"environment": where, "checks": [asdict(one) for one in checks]}
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    bad = [check for check in checks if check.outcome in ("wrong", "error")]
    print(f"{len(checks)} checks, {len(bad)} wrong or ended with an error: {options.out}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
