"""Do pqbench's figures hold when somebody else measures them?  python benchmarks/fidelity.py [--rounds 6]

In one run: Measure against a plain loop over session.run, and against OpenVINO's benchmark_app, on three models and
two batch sizes with the same threads, each side in fresh processes, alternating A B B A; what a neighbour that burns a
core for part of a measurement does to a paired and an unpaired speed-up; how many cells are marked on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from playwright.sync_api import sync_playwright

from pqbench.common.v1.common_pb2 import Artifact, Form, Images, Precision, Preprocessing
from pqbench.runtime.v1 import runtime_pb2 as pb
from pqbench.runtime.v1 import runtime_pb2_grpc
from pqbench_compressor import export
from pqbench_compressor.plugins import MODELS, QUANTIZERS, Context, Files, Source, Training
from pqbench_orchestrator.config.recipes import Step
from pqbench_orchestrator.execution.launch.process import ProcessLauncher
from pqbench_orchestrator.output.report.page import figures_page
from pqbench_orchestrator.statistics import paired_speedup
from pqbench_orchestrator.steps.compress import step_message
from pqbench_wire.blobs import BlobStore
from pqbench_wire.process import versions_of
from pqbench_wire.shared.inputs import normalise

RESULTS = Path(__file__).parent / "results"
PICTURE = Path(__file__).parents[1] / "docs/images/fidelity.png"
MODEL_NAMES = (("cifar", "resnet20"), ("cifar", "resnet56"), ("torchvision", "mobilenet_v2"))
BATCHES = (1, 8)
LOOP_LIMIT, APP_LIMIT, NEIGHBOUR_LIMIT, MARKED_LIMIT = 0.02, 0.03, 0.05, 0.05
SETTINGS = {
    "warmup_seconds": 0.3,
    "warmup_iterations": 5,
    "min_iterations": 12,
    "stability": 0.05,
    "windows": 6,
    "discard": 2,
}
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


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model and batch size: its artifacts, FP32 and INT8, and images to feed."""

    name: str
    batch: int
    fp32: bytes
    int8: bytes
    images: np.ndarray
    preprocessing: Preprocessing


class Service:
    """A fresh runtime in its own process, over a folder of its own."""

    def __init__(self, case: Case, backend: str, threads: int, **options: Any) -> None:
        self._case, self._backend = case, backend
        self._options = json.dumps({"threads": threads, **options})
        self._folder = tempfile.TemporaryDirectory()
        self._store = BlobStore(Path(self._folder.name) / "blobs")
        self._launcher = ProcessLauncher("pqbench_runtime", Path(self._folder.name), Path(self._folder.name) / "log")

    def __enter__(self) -> Service:
        self._client = self._launcher.start()
        self._stub: Any = runtime_pb2_grpc.RuntimeServiceStub(self._client.channel)
        return self

    def __exit__(self, *_: object) -> None:
        self._launcher.stop()
        self._folder.cleanup()

    def build(self, precision: Precision) -> pb.Engine:
        """The engine of the case in a precision."""
        int8 = precision == Precision.PRECISION_INT8
        form = Form.FORM_QDQ_UNSIGNED if int8 else Form.FORM_ONNX
        data = self._case.int8 if int8 else self._case.fp32
        request = pb.BuildEngineRequest(
            backend=self._backend, options_json=self._options, batch_size=self._case.batch,
            artifact=Artifact(blob=self._store.put(data), form=form, precision=precision),
            preprocessing=self._case.preprocessing,
        )  # fmt: skip
        engine: pb.Engine = self._client.result(self._stub.BuildEngine, request).engine
        return engine

    def measure(self, engines: list[pb.Engine], seconds: float, longest: float) -> pb.MeasureResult:
        """A measurement of its own, never a kept one."""
        inputs = self._inputs()
        settings = pb.MeasureSettings(**SETTINGS, min_seconds=seconds, max_seconds=longest)
        run = f"{time.monotonic_ns()}"
        request = pb.MeasureRequest(engines=engines, inputs=inputs, settings=settings, run=run)
        result: pb.MeasureResult = self._client.result(self._stub.Measure, request)
        return result

    def app(self, engine: pb.Engine, seconds: float) -> float:
        """The median of benchmark_app on the same engine, in seconds."""
        request = pb.CrossCheckRequest(
            engine=engine, inputs=self._inputs(), seconds=seconds, run=f"{time.monotonic_ns()}"
        )
        (tool,) = self._client.result(self._stub.CrossCheck, request).tools
        if tool.unavailable:
            raise SystemExit(f"benchmark_app: {tool.unavailable}")
        return float(tool.seconds["latency"])

    def samples(self, result: pb.MeasureResult) -> dict[str, np.ndarray]:
        return self._store.archive(result.samples)

    def _inputs(self) -> Images:
        labels = self._store.put_array(np.zeros(len(self._case.images), np.int64))
        return Images(images=self._store.put_array(self._case.images), labels=labels)


def case(plugin: str, name: str, batch: int) -> Case:
    """Random weights with calibrated normalisation; random images: what is measured is time."""
    torch.manual_seed(0)
    module = MODELS.load(plugin).build(name, MODELS.configure(plugin, "{}"), Files())
    preprocessing = MODELS.load(plugin).info(name, MODELS.configure(plugin, "{}"), Files()).preprocessing
    shape = (64, preprocessing.height, preprocessing.width, preprocessing.channels)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with torch.no_grad():
        module.train()(torch.from_numpy(normalise(images, preprocessing)))
    module.eval()
    training = Training(images=images, labels=np.zeros(len(images), np.int64), preprocessing=preprocessing)
    context = Context(
        seed=0, report=lambda *_: None, classes=10, images=training.inputs(slice(8)), training_split=training
    )
    source = Source(onnx=lambda: export.to_onnx(module, context.example), module=module)
    plugin_int8 = QUANTIZERS.load("int8-static")
    step = step_message(Step.model_validate({"quantize": {"method": "int8-static", "images": 32, "ranges": "min-max"}}))
    config = QUANTIZERS.configure(step.plugin, step.config_json)
    int8 = plugin_int8.quantize(source, config, context, (Form.FORM_QDQ_UNSIGNED,))[Form.FORM_QDQ_UNSIGNED]
    return Case(name=f"{plugin}/{name}", batch=batch, fp32=source.onnx(), int8=int8, images=images[:batch],
                preprocessing=preprocessing)  # fmt: skip


def plain(one: Case, threads: int, seconds: float) -> float:
    """Median seconds of a loop that imports onnxruntime alone."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "model.onnx").write_bytes(one.fp32)
        np.save(Path(folder, "inputs.npy"), normalise(one.images, one.preprocessing))
        command = [
            sys.executable,
            "-c",
            PLAIN,
            f"{folder}/model.onnx",
            f"{folder}/inputs.npy",
            str(threads),
            str(seconds),
        ]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def ours(one: Case, backend: str, threads: int, seconds: float, **options: Any) -> float:
    """Median seconds by Measure in a fresh service."""
    with Service(one, backend, threads, **options) as service:
        result = service.measure([service.build(Precision.PRECISION_FP32)], seconds, seconds)
        return float(result.timings[0].median)


def app(one: Case, threads: int, seconds: float) -> float:
    """Median seconds by benchmark_app, which times no input filling."""
    with Service(one, "openvino", threads, transfers=False) as service:
        return service.app(service.build(Precision.PRECISION_FP32), seconds)


def alternating(first: Callable[[], float], second: Callable[[], float], rounds: int) -> dict[str, Any]:
    """Medians of both sides over A B B A …, and the median of the rounds' ratios: drift meets both sides of a ratio."""
    sides: dict[str, list[float]] = {"ours": [], "theirs": []}
    for number in range(rounds):
        for name, side in (("ours", first), ("theirs", second))[:: 1 if number % 2 == 0 else -1]:
            sides[name].append(side())
    ratios = [a / b for a, b in zip(sides["ours"], sides["theirs"], strict=True)]
    return {
        "ours_ms": statistics.median(sides["ours"]) * 1e3, "theirs_ms": statistics.median(sides["theirs"]) * 1e3,
        "ratio": statistics.median(ratios), "rounds": [round(r, 3) for r in ratios],
    }  # fmt: skip


def against_others(threads: int, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Measure against the loop and against benchmark_app."""
    found = []
    for plugin, name in MODEL_NAMES:
        for batch in BATCHES:
            one = case(plugin, name, batch)
            loop = (partial(ours, one, "onnxruntime", threads, seconds), partial(plain, one, threads, seconds))
            blob = (
                partial(ours, one, "openvino", threads, seconds, transfers=False),
                partial(app, one, threads, seconds),
            )
            for peer, limit, sides in (("session.run loop", LOOP_LIMIT, loop), ("benchmark_app", APP_LIMIT, blob)):
                line = {"model": one.name, "batch": batch, "peer": peer, "limit": limit} | alternating(*sides, rounds)
                line["within"] = abs(line["ratio"] - 1) <= limit
                found.append(line)
                print(
                    f"{one.name:26} batch {batch:2}  Measure {line['ours_ms']:9.4f} ms  {peer:16} "
                    f"{line['theirs_ms']:9.4f} ms  ratio {line['ratio']:.3f}  {'ok' if line['within'] else 'OVER'}",
                    flush=True,
                )
    return found


def burn(seconds: float, after: float) -> threading.Thread:
    """One core is burnt by another process for some seconds, beginning a while from now."""

    def work() -> None:
        time.sleep(after)
        process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        time.sleep(seconds)
        process.kill()
        process.wait()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def neighbour(threads: int) -> dict[str, Any]:
    """INT8 over FP32, paired and unpaired, quiet and while a neighbour burns a core for a part of it."""
    one, length = case("cifar", "resnet56", 8), 6.0
    with Service(one, "onnxruntime", threads) as service:
        engines = [service.build(precision) for precision in (Precision.PRECISION_INT8, Precision.PRECISION_FP32)]

        def paired() -> tuple[float, pb.MeasureResult, dict[str, np.ndarray]]:
            result = service.measure(engines, length / 2, length / 2)
            arrays = service.samples(result)
            ratio = paired_speedup(arrays["latency_0"], arrays["block_0"], arrays["latency_1"], arrays["block_1"])
            return ratio.value, result, arrays

        def unpaired() -> tuple[float, list[pb.MeasureResult]]:
            results = [service.measure([engine], length / 2, length / 2) for engine in engines]
            return results[1].timings[0].median / results[0].timings[0].median, results

        quiet, _, calm = paired()
        quiet_unpaired, _ = unpaired()
        thread = burn(length * 0.4, after=length * 0.3)
        noisy, noisy_result, disturbed = paired()
        thread.join()
        thread = burn(length * 0.5, after=0.1)
        noisy_unpaired, results = unpaired()
        thread.join()
    marked = [t.unstable_reason for r in (noisy_result, *results) for t in r.timings if not t.stable]
    found = {
        "paired_quiet": quiet, "paired_noisy": noisy, "paired_change": noisy / quiet - 1,
        "unpaired_quiet": quiet_unpaired, "unpaired_noisy": noisy_unpaired,
        "unpaired_change": noisy_unpaired / quiet_unpaired - 1, "marked": marked,
        "paired_marked": [t.unstable_reason for t in noisy_result.timings if not t.stable],
    }  # fmt: skip
    holds = abs(found["paired_change"]) <= NEIGHBOUR_LIMIT or bool(found["paired_marked"])
    fails = abs(found["unpaired_change"]) > NEIGHBOUR_LIMIT or bool(marked)
    found["as_promised"] = holds and fails
    print(
        f"neighbour: paired speed-up {quiet:.2f} -> {noisy:.2f} ({found['paired_change']:+.1%}), unpaired "
        f"{quiet_unpaired:.2f} -> {noisy_unpaired:.2f} ({found['unpaired_change']:+.1%}); marked: {marked or 'none'}",
        flush=True,
    )
    draw(calm, disturbed)
    return found


def draw(calm: dict[str, np.ndarray], disturbed: dict[str, np.ndarray]) -> None:
    """The latencies over time with and without the neighbour, as the picture of the docs."""
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        print("no picture is drawn: there is no Chromium")
        return
    figures = []
    for title, arrays in (("Quiet", calm), ("A neighbour burns one core for a part of it", disturbed)):
        data = []
        for index, name, colour in ((0, "INT8", "#0072B2"), (1, "FP32", "#D55E00")):
            chosen = np.linspace(0, len(arrays[f"start_{index}"]) - 1, 600).astype(int)
            data.append({"type": "scatter", "mode": "markers", "name": name, "marker": {"size": 4, "color": colour},
                         "x": [round(float(arrays[f"start_{index}"][i]), 3) for i in chosen],
                         "y": [round(float(arrays[f"latency_{index}"][i]) * 1e3, 4) for i in chosen]})  # fmt: skip
        layout = {"title": {"text": title}, "height": 380, "xaxis": {"title": {"text": "Seconds"}},
                  "yaxis": {"title": {"text": "Latency (ms)"}, "type": "log"}}  # fmt: skip
        figures.append({"data": data, "layout": layout})
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = Path(folder, "page.html")
        page_file.write_text(figures_page("A noisy neighbour", figures), encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 900, "height": 880})
        page.goto(page_file.as_uri())
        page.wait_for_timeout(1500)
        page.screenshot(path=str(PICTURE))
        browser.close()


def marked_when_quiet(threads: int) -> dict[str, Any]:
    """The manifest's default settings on every case, precision and CPU backend: how many cells are marked."""
    reasons, cells = [], 0
    for plugin, name in MODEL_NAMES:
        for batch in BATCHES:
            one = case(plugin, name, batch)
            for backend in ("onnxruntime", "openvino"):
                with Service(one, backend, threads) as service:
                    for precision in (Precision.PRECISION_FP32, Precision.PRECISION_INT8):
                        timing = service.measure([service.build(precision)], 3.0, 12.0).timings[0]
                        cells += 1
                        if not timing.stable:
                            reasons.append(f"{one.name}, batch {batch}, {backend}: {timing.unstable_reason}")
    share = len(reasons) / cells
    print(f"quiet: {len(reasons)} of {cells} cells are marked ({share:.1%}): {reasons or 'none'}", flush=True)
    return {"cells": cells, "marked": reasons, "share": share, "within": share <= MARKED_LIMIT}


def main() -> int:
    """Everything, printed and kept."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    record: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"), "machine": platform.platform(), "cores": os.cpu_count(),
        "threads": options.threads, "versions": versions_of("onnxruntime", "openvino", "numpy"),
        "others": against_others(options.threads, options.rounds, options.seconds),
        "neighbour": neighbour(options.threads), "quiet": marked_when_quiet(options.threads),
    }  # fmt: skip
    (RESULTS / "fidelity.json").write_text(json.dumps(record, indent=1) + "\n")
    worst = max(math.fabs(line["ratio"] - 1) for line in record["others"])
    good = (
        all(line["within"] for line in record["others"])
        and record["neighbour"]["as_promised"]
        and record["quiet"]["within"]
    )
    print(f"worst ratio is {worst:.1%} from 1; {'all as promised' if good else 'NOT all as promised'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
