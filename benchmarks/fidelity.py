"""Does Measure add time of its own? Its latency against a plain loop over session.run, in one run.

    python benchmarks/fidelity.py [--rounds N]

Each side runs in fresh processes, alternating A B B A, on the same optimised-at-load ONNX model with
the same threads: A is a runtime service's Measure over gRPC; B imports onnxruntime (and numpy) alone.
Prints each round's medians and the ratio of the medians over all rounds, with the rounds' spread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import numpy as np
import torch

from pqbench.common.v1.common_pb2 import Artifact, Form, Images, Precision, Preprocessing
from pqbench.runtime.v1 import runtime_pb2 as pb
from pqbench.runtime.v1 import runtime_pb2_grpc
from pqbench_compressor import export
from pqbench_compressor.plugins import MODELS, Files
from pqbench_orchestrator.launch.process import ProcessLauncher
from pqbench_wire.blobs import BlobStore
from pqbench_wire.inputs import normalise
from pqbench_wire.process import versions_of

SECONDS = 2.0
CASES = [("digits", "resnet", 1), ("digits", "resnet", 32), ("cifar", "resnet20", 1), ("cifar", "resnet20", 32)]
PLAIN = """
import sys, time, numpy, onnxruntime
model, inputs, threads, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
feed = {session.get_inputs()[0].name: numpy.load(inputs)}
end = time.perf_counter() + 0.3
while time.perf_counter() < end:
    session.run(None, feed)
times, end = [], time.perf_counter() + seconds
while time.perf_counter() < end:
    begin = time.perf_counter()
    session.run(None, feed)
    times.append(time.perf_counter() - begin)
print(numpy.median(times))
"""


def measured(folder: Path, model: bytes, images: np.ndarray, preprocessing: Preprocessing, threads: int) -> float:
    """Median seconds by a runtime service in its own process."""
    store = BlobStore(folder / "blobs")
    launcher = ProcessLauncher("pqbench_runtime", folder, folder / "log")
    try:
        client = launcher.start()
        stub = runtime_pb2_grpc.RuntimeServiceStub(client.channel)
        artifact = Artifact(blob=store.put(model), form=Form.FORM_ONNX, precision=Precision.PRECISION_FP32)
        build = pb.BuildEngineRequest(
            backend="onnxruntime", options_json=json.dumps({"threads": threads}), artifact=artifact,
            batch_size=len(images), preprocessing=preprocessing,
        )  # fmt: skip
        engine = client.result(stub.BuildEngine, build).engine
        inputs = Images(images=store.put_array(images), labels=store.put_array(np.zeros(len(images), np.int64)))
        settings = pb.MeasureSettings(
            warmup_seconds=0.3, warmup_iterations=5, min_seconds=SECONDS, max_seconds=SECONDS, min_iterations=10,
            stability=0.05, windows=4,
        )  # fmt: skip
        request = pb.MeasureRequest(engines=[engine], inputs=inputs, settings=settings, run=folder.name)
        return float(client.result(stub.Measure, request).timings[0].median)
    finally:
        launcher.stop()


def plain(folder: Path, threads: int) -> float:
    """Median seconds of a loop that imports onnxruntime alone."""
    command = [sys.executable, "-c", PLAIN, folder / "model.onnx", folder / "inputs.npy", str(threads), str(SECONDS)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def compare(plugin: str, name: str, batch: int, threads: int, rounds: int) -> dict[str, object]:
    """Both sides of one case, alternating."""
    torch.manual_seed(0)
    module = MODELS.load(plugin).build(name, None, Files()).eval()
    preprocessing = MODELS.load(plugin).info(name, None, Files()).preprocessing
    shape = (batch, preprocessing.height, preprocessing.width, preprocessing.channels)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    inputs = normalise(images, preprocessing)
    model = export.to_onnx(module, np.repeat(inputs, 2, 0)[:2])
    ours: list[float] = []
    loop: list[float] = []
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as name_of_folder:
            folder = Path(name_of_folder)
            (folder / "model.onnx").write_bytes(model)
            np.save(folder / "inputs.npy", inputs)
            for side in ("ours", "loop") if number % 2 == 0 else ("loop", "ours"):
                if side == "ours":
                    ours.append(measured(folder, model, images, preprocessing, threads))
                else:
                    loop.append(plain(folder, threads))
    ratios = [a / b for a, b in zip(ours, loop, strict=True)]
    return {
        "model": f"{plugin}/{name}", "batch": batch, "threads": threads,
        "measure_ms": statistics.median(ours) * 1e3, "plain_loop_ms": statistics.median(loop) * 1e3,
        "ratio": statistics.median(ours) / statistics.median(loop), "ratio_of_best": min(ours) / min(loop),
        "rounds": [round(r, 3) for r in ratios],
    }  # fmt: skip


def main() -> None:
    """Print a line for each case and keep the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    results = []
    print(f"{'model':18} {'batch':>5} {'Measure ms':>11} {'loop ms':>9} {'ratio':>6} {'of best':>7}  rounds")
    for plugin, name, batch in CASES:
        r = compare(plugin, name, batch, arguments.threads, arguments.rounds)
        results.append(r)
        print(f"{r['model']:18} {batch:5} {r['measure_ms']:11.4f} {r['plain_loop_ms']:9.4f} {r['ratio']:6.3f} "
              f"{r['ratio_of_best']:7.3f}  {r['rounds']}", flush=True)  # fmt: skip
    record = {"date": date.today().isoformat(), "versions": versions_of("onnxruntime", "numpy"), "results": results}
    path = Path(__file__).parent / "results" / "fidelity.json"
    path.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
