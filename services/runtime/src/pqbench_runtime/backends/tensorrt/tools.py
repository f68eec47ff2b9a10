"""Cross-checks: NVIDIA's trtexec, with the target's settings, and Polygraphy on the same plan.

The source for trtexec's options, whose defaults changed in 11, is TensorRT's samples/common/sampleOptions.cpp.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from pathlib import Path

import tensorrt as trt

from pqbench_runtime.backend import CrossCheck
from pqbench_runtime.backends.tensorrt.options import MAJOR, Config
from pqbench_wire.process import leashed

TRTEXEC = ("trtexec", "/usr/src/tensorrt/bin/trtexec", "/opt/tensorrt/bin/trtexec")  # the paths of NVIDIA's images
PARTS = {"latency": "latencyMs", "compute": "computeMs", "h2d": "h2dMs", "d2h": "d2hMs"}
POLYGRAPHY_CALLS = 100
Shapes = Mapping[str, tuple[int, ...]]


def trtexec(plan: Path, shapes: Shapes, options: Config, seconds: float) -> CrossCheck:
    """Medians by trtexec; its latency is the sum of the device's parts, pqbench's is host time around them."""
    made = CrossCheck(tool=f"trtexec {trt.__version__}", definition="sum of the device's own times of the parts")
    program = next((found for name in TRTEXEC if (found := shutil.which(name))), None)
    if program is None:
        return replace(made, unavailable="trtexec is not in this container")
    with tempfile.TemporaryDirectory() as folder:
        times = Path(folder, "times.json")
        command = [program, f"--loadEngine={plan}", f"--exportTimes={times}"]
        command += trtexec_options(shapes, options, seconds)
        done = subprocess.run(leashed(command), capture_output=True, text=True)
        made = replace(made, command=shlex.join(command))
        if done.returncode or not times.is_file():
            return replace(made, unavailable=f"trtexec ended with code {done.returncode}: {_last_line(done)}")
        trace = json.loads(times.read_text())
    parts = PARTS if options.transfers else {"compute": "computeMs"}
    return replace(made, seconds={p: statistics.median(one[key] for one in trace) / 1e3 for p, key in parts.items()})


def trtexec_options(shapes: Shapes, options: Config, seconds: float) -> list[str]:
    """The options for the target's settings, including each one whose default differs between versions.

    One inference is in flight at a time, as in pqbench.
    """
    given = ["--warmUp=200", f"--duration={ceil(seconds)}", "--iterations=10", "--infStreams=1", "--exposeDMA"]
    if options.version_compatible:
        given.append("--versionCompatible")
    if options.batch_range:
        given.append("--shapes=" + ",".join(f"{n}:{'x'.join(map(str, axes))}" for n, axes in shapes.items()))
    if MAJOR >= 11:
        wanted = {"--includeDataTransfers": options.transfers, "--noSpinWait": not options.spin,
                  "--noCudaGraph": not options.cuda_graph}  # fmt: skip
    else:
        wanted = {"--noDataTransfers": not options.transfers, "--useSpinWait": options.spin,
                  "--useCudaGraph": options.cuda_graph}  # fmt: skip
    return [*given, *(flag for flag, on in wanted.items() if on)]


def polygraphy(plan: Path, shapes: Shapes) -> CrossCheck:
    """The mean by Polygraphy over 100 calls, always with copies and without a CUDA graph."""
    made = CrossCheck(tool="polygraphy", definition="copies and compute, no CUDA graph", statistic="mean")
    program = shutil.which("polygraphy")
    if program is None:
        return replace(made, unavailable="polygraphy is not in this container")
    command = [program, "run", str(plan), "--trt", "--model-type", "engine"]
    command += ["--warm-up", "10", "--iterations", str(POLYGRAPHY_CALLS)]
    command += ["--input-shapes", *(f"{name}:[{','.join(map(str, axes))}]" for name, axes in shapes.items())]
    done = subprocess.run(leashed(command), capture_output=True, text=True)
    found = re.search(r"Average inference time: ([0-9.e+-]+) ms", done.stdout)
    made = replace(made, command=shlex.join(command))
    if found is None:
        return replace(made, unavailable=f"polygraphy ended with code {done.returncode}: {_last_line(done)}")
    return replace(made, seconds={"latency": float(found[1]) / 1e3})


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    return next(iter((done.stdout + done.stderr).strip().splitlines()[-1:]), "no output")
