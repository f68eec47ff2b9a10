"""How often is a verdict right?  python benchmarks/verdicts.py [--times 20]

Two engines of one variant must be called the same, a planted slowdown of 5 % must be found, and INT8 must never be
called the same as FP32: each 20 times, in fresh sessions, by the clock and the statistics that every cell has.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fidelity import SETTINGS, Case, case

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench.runtime.v1 import runtime_pb2 as pb
from pqbench_orchestrator.stats import BETTER, SAME, WORSE, Ratio, paired_speedup, verdict
from pqbench_runtime import timing
from pqbench_runtime.backend import BACKENDS, Job, Shape
from pqbench_wire.inputs import normalise
from pqbench_wire.process import versions_of

RESULT = Path(__file__).parent / "results/verdicts.json"
SLOWDOWN, RIGHT = 0.05, 18 / 20
Call = Callable[[], object]


def session(one: Case, precision: Precision, folder: Path, threads: int) -> Call:
    """A freshly built and loaded engine's timed call."""
    backend = BACKENDS.load("onnxruntime")
    options = backend.Config(threads=threads)
    int8 = precision == Precision.PRECISION_INT8
    artifact = folder / "model.onnx"
    artifact.write_bytes(one.int8 if int8 else one.fp32)
    shape = Shape(batch=one.batch, preprocessing=one.preprocessing)
    form = Form.FORM_QDQ_UNSIGNED if int8 else Form.FORM_ONNX
    built = backend.build(Job(artifact=artifact, precision=precision, form=form, shape=shape, caches=folder), options)
    engine = folder / "engine.onnx"
    engine.write_bytes(built.data)
    call: Call = backend.load(engine, precision, shape, options).bind(normalise(one.images, one.preprocessing))
    return call


def slowed(call: Call, share: float) -> Call:
    """The same call, and a wait of a share of its median after it, awake."""
    times = []
    for _ in range(60):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    pause = share * float(np.median(times))

    def slow() -> None:
        call()
        end = time.perf_counter() + pause
        while time.perf_counter() < end:
            pass

    return slow


def judged(old: Call, new: Call, seconds: float) -> tuple[str, Ratio]:
    """The verdict on new over old latency, both in one interleaved measurement."""
    settings = pb.MeasureSettings(**SETTINGS, min_seconds=seconds, max_seconds=seconds)
    one, other = timing.measure([[new], [old]], settings)
    found = paired_speedup(np.array(other.latency), np.array(other.block), np.array(one.latency), np.array(one.block))
    return verdict(found), found


def main() -> int:
    """The three experiments, printed and kept."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    one = case("cifar", "resnet20", 8)
    fp32, int8 = Precision.PRECISION_FP32, Precision.PRECISION_INT8
    experiments: dict[str, tuple[Precision, float, set[str], float]] = {
        "the same variant twice": (fp32, 0.0, {SAME}, RIGHT),
        "slowed down by 5 %": (fp32, SLOWDOWN, {WORSE}, RIGHT),
        "INT8 against FP32": (int8, 0.0, {BETTER, WORSE}, 1.0),
    }
    record: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"), "machine": platform.platform(), "times": options.times,
        "seconds": options.seconds, "versions": versions_of("onnxruntime"), "results": {},
    }  # fmt: skip
    good = True
    for name, (precision, slowdown, wanted, share) in experiments.items():
        verdicts, ratios = [], []
        for _ in range(options.times):
            with tempfile.TemporaryDirectory() as folder:
                old = session(one, fp32, Path(folder), options.threads)
                new = session(one, precision, Path(folder), options.threads)
                said, ratio = judged(old, slowed(new, slowdown) if slowdown else new, options.seconds)
            verdicts.append(said)
            ratios.append(round(ratio.value, 4))
        right = sum(said in wanted for said in verdicts)
        good &= right >= share * options.times
        record["results"][name] = {"right": right, "verdicts": verdicts, "ratios": ratios}
        print(
            f"{name}: {right} of {options.times} right ({', '.join(sorted(set(verdicts)))}), ratios {ratios}",
            flush=True,
        )
    RESULT.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
