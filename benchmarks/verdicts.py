"""How often is a verdict right?  python benchmarks/verdicts.py [--times 20]

Two engines of one variant must be called the same, a planted slowdown of 5 % must be found, and INT8 must never be
called the same as FP32: each 20 times, in fresh sessions, by the clock and the statistics that every cell has. Once
more as `pqbench compare` sees them, no session with both engines in it: two targets of a run, whose five sessions
alternate, and two runs, five sessions of one after those of the other, where a slowdown of 10 % must be found.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fidelity import SETTINGS, Case, case

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench.runtime.v1 import runtime_pb2 as pb
from pqbench_orchestrator.decide.compare import compare
from pqbench_orchestrator.decide.sides import Identity, Session, Side
from pqbench_orchestrator.results.cell import OK, CellResult, Timing
from pqbench_orchestrator.statistics import BETTER, SAME, WORSE, Ratio, paired_speedup, verdict
from pqbench_runtime import timing
from pqbench_runtime.backend import BACKENDS, Job, Shape
from pqbench_wire.process import versions_of
from pqbench_wire.shared.inputs import normalise

RESULT = Path(__file__).parent / "results/verdicts.json"
IDENTITY = Identity("m", "d", "r", 1, 1, None)
SLOWDOWN, RIGHT, REPEATS = 0.05, 18 / 20, 5
Call = Callable[[], object]
Judge = Callable[[Case, Precision, float, argparse.Namespace], tuple[str, Ratio]]


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


def loaded(one: Case, precision: Precision, slowdown: float, threads: int, folder: str) -> Call:
    """A fresh session's call, slowed down where it is to be."""
    call = session(one, precision, Path(folder), threads)
    return slowed(call, slowdown) if slowdown else call


def paired(one: Case, precision: Precision, slowdown: float, options: argparse.Namespace) -> tuple[str, Ratio]:
    """The verdict on new over old latency, both in one interleaved measurement."""
    settings = pb.MeasureSettings(**SETTINGS, min_seconds=options.seconds, max_seconds=options.seconds)
    with tempfile.TemporaryDirectory() as folder:
        old = session(one, Precision.PRECISION_FP32, Path(folder), options.threads)
        new = loaded(one, precision, slowdown, options.threads, folder)
        fresh, base = timing.measure([[new], [old]], settings)
    arrays = (base.latency, base.block, fresh.latency, fresh.block)
    found = paired_speedup(*(np.array(values) for values in arrays))
    return verdict(found), found


def targets(one: Case, precision: Precision, slowdown: float, options: argparse.Namespace) -> tuple[str, Ratio]:
    """The verdict of `pqbench compare` on two targets of a run, whose sessions alternate: A B B A …"""
    return compared(one, precision, slowdown, options, "run", ([0, 1], [1, 0]) * REPEATS)


def runs(one: Case, precision: Precision, slowdown: float, options: argparse.Namespace) -> tuple[str, Ratio]:
    """The verdict of `pqbench compare` on two runs, one after the other."""
    return compared(one, precision, slowdown, options, "later", ([0] * REPEATS, [1] * REPEATS))


def compared(
    one: Case, precision: Precision, slowdown: float, options: argparse.Namespace, run: str, order: Sequence[list[int]]
) -> tuple[str, Ratio]:
    """The verdict on sessions in an order of old (0) and new (1) ones; `run`: of the new, the old are of "run"."""
    sides: tuple[list[Session], list[Session]] = ([], [])
    for which in [which for turn in order for which in turn][: 2 * REPEATS]:
        sides[which].append(alone(one, precision, slowdown if which else 0.0, options))
    old, new = (
        Side(name=name, sessions={IDENTITY: sessions}, run=Path(name))
        for name, sessions in zip(("run", run), sides, strict=True)
    )
    (change,) = compare(old, new)
    assert change.ratio is not None
    return change.verdict, change.ratio


def alone(one: Case, precision: Precision, slowdown: float, options: argparse.Namespace) -> Session:
    """A session with one engine."""
    seconds = options.seconds / REPEATS
    settings = pb.MeasureSettings(**SETTINGS, min_seconds=seconds, max_seconds=seconds)
    with tempfile.TemporaryDirectory() as folder:
        (found,) = timing.measure([[loaded(one, precision, slowdown, options.threads, folder)]], settings)
    timing_found = Timing(median_ms=1e3 * float(np.median(found.latency)))
    cell = CellResult(
        key="c", model="m", dataset="d", recipe="r", target="t", batch_size=1, outcome=OK, timing=timing_found
    )
    return Session(cell=cell, blocks=[])


def main() -> int:
    """The experiments, printed and kept."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--last", type=int, default=0, help="do only so many again; the others' results are kept")
    options = parser.parse_args()
    one = case("cifar", "resnet20", 8)
    fp32, int8 = Precision.PRECISION_FP32, Precision.PRECISION_INT8
    experiments: dict[str, tuple[Judge, Precision, float, set[str], float]] = {
        "the same variant twice": (paired, fp32, 0.0, {SAME}, RIGHT),
        "slowed down by 5 %": (paired, fp32, SLOWDOWN, {WORSE}, RIGHT),
        "INT8 against FP32": (paired, int8, 0.0, {BETTER, WORSE}, 1.0),
        "the same variant as two targets": (targets, fp32, 0.0, {SAME}, RIGHT),
        "slowed down by 5 % as another target": (targets, fp32, SLOWDOWN, {WORSE}, RIGHT),
        "the same variant in two runs": (runs, fp32, 0.0, {SAME}, RIGHT),
        "slowed down by 10 % in another run": (runs, fp32, 2 * SLOWDOWN, {WORSE}, RIGHT),
    }
    record: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"), "machine": platform.platform(), "times": options.times,
        "seconds": options.seconds, "versions": versions_of("onnxruntime"), "results": {},
    }  # fmt: skip
    if options.last:
        kept = json.loads(RESULT.read_text())["results"]
        record["results"] = {name: kept[name] for name in experiments if name in kept}
    good = True
    for name in list(experiments)[-options.last :]:
        judge, precision, slowdown, wanted, share = experiments[name]
        verdicts, ratios = [], []
        for _ in range(options.times):
            said, ratio = judge(one, precision, slowdown, options)
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
