"""OpenVINO on the CPU; engines have their inference precision set, as the default is BF16 where the CPU has it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import numpy as np
import openvino
from openvino import properties
from pydantic import Field

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_runtime.backend import Built, Call, CrossCheck, Job, Layer, LayerTime, Profile, Route, Shape, run_for
from pqbench_runtime.backends._int8_cpu import int8_routes
from pqbench_runtime.host import cpu_name
from pqbench_wire.errors import Failed, Refused, first_line
from pqbench_wire.process import leashed, versions_of
from pqbench_wire.shared.inputs import Feed, named

REQUIRES = ("openvino",)
TIMED = ("threads", "transfers")
ENGINE_FILE = "engine.blob"
ROUTES = (
    Route(
        precision=Precision.PRECISION_FP32,
        form=Form.FORM_ONNX,
        executes=(Precision.PRECISION_FP32,),
        evidence="INFERENCE_PRECISION_HINT=f32; the default, BF16 where the CPU has it, is 2-6x faster than true FP32",
    ),
    Route(
        precision=Precision.PRECISION_FP16,
        form=Form.FORM_ONNX,
        executes=(Precision.PRECISION_FP16, Precision.PRECISION_FP32),
        evidence="FP16 is executed only on CPUs with FP16 arithmetic; elsewhere weights are widened: it saves size",
    ),
    *(
        replace(route, executes=(*route.executes, Precision.PRECISION_BF16))  # with the option around_int8
        for route in int8_routes(
            "2-10x FP32's speed; signed activations with INT8 weights fail to compile under some hints"
        )
    ),
    Route(
        precision=Precision.PRECISION_BF16,
        form=Form.FORM_ONNX,
        executes=(Precision.PRECISION_BF16, Precision.PRECISION_FP32),
        evidence="INFERENCE_PRECISION_HINT=bf16, on CPUs that have it",
    ),
    Route(
        precision=Precision.PRECISION_FP8,
        form=Form.FORM_QDQ_SIGNED,
        executes=(Precision.PRECISION_FP32,),
        evidence="CPUs have no FP8 kernels: rounded to FP8, computed in FP32; accuracy is real, speed is not FP8's",
    ),
    Route(
        precision=Precision.PRECISION_INT4,
        form=Form.FORM_QDQ_SIGNED,
        executes=(Precision.PRECISION_INT4, Precision.PRECISION_FP32),
        evidence="weights are unpacked when loaded or as it goes, computed in FP32",
    ),
    Route(
        precision=Precision.PRECISION_SIMULATED,
        form=Form.FORM_ONNX,
        executes=(Precision.PRECISION_FP32,),
        evidence="few bits rounded in FP32 arithmetic: accuracy only, never timed",
    ),
)
COMPUTE = {"Convolution", "Deconvolution", "FullyConnected", "MatMul", "BatchedMatMul", "ScaledDotProductAttention"}
# Runs benchmark_app 2026.4 on a compiled model, which it cannot do by itself: it takes precisions that were not given
# for given ones, and imports by path, where OpenVINO now takes bytes. Its loop and its clock are not changed.
BENCHMARK_APP = """
from openvino.tools.benchmark import main as app
parsers = app.parse_args
def parser():
    made = parsers()
    made.set_defaults(input_precision="", output_precision="", input_output_precision="")
    return made
app.parse_args = parser
import openvino
from_bytes = openvino.Core.import_model
def from_path(core, path, *more):
    with open(path, "rb") as file:
        return from_bytes(core, file.read(), *more)
openvino.Core.import_model = from_path
app.main()
"""
WAYS = ("model.reshape to a static batch", "model.reshape to a static batch, INFERENCE_PRECISION_HINT=f32")
SCRIPT = """\
import openvino

CORE = openvino.Core()


def run(x):
    model = CORE.read_model(MODEL)
    model.reshape(x.shape)  # with a dynamic batch, its outputs would be wrong
    return CORE.compile_model(model, "CPU"{more})(x)[0]
"""
SCRIPTS = {
    "": """\
import openvino

COMPILED = openvino.Core().compile_model(MODEL, "CPU")


def run(x):
    return COMPILED(x)[0]
""",
    WAYS[0]: SCRIPT.format(more=""),
    WAYS[1]: SCRIPT.format(more=', {"INFERENCE_PRECISION_HINT": "f32"}'),
}
EXECUTED = openvino.ProfilingInfo.Status.EXECUTED
TYPES = {"f32": "FP32", "f16": "FP16", "bf16": "BF16", "i8": "INT8", "u8": "INT8", "i4": "INT4", "u4": "INT4"}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the CPU device."""

    threads: Annotated[int, Field(ge=0, le=1024, description="inference threads; 0: one per physical core")] = 0
    around_int8: Annotated[
        Literal["fp32", "bf16"],
        Field(description="precision of what an INT8 recipe leaves in floating point; bf16 needs a CPU that has it"),
    ] = "fp32"
    transfers: Annotated[
        bool, Field(description="count setting the input and copying the outputs; false: time as benchmark_app does")
    ] = True


class Session:
    """A loaded engine: a compiled model with one infer request."""

    settings: Mapping[str, str] = {}

    def __init__(self, compiled: openvino.CompiledModel, transfers: bool = True) -> None:
        self._request, self._transfers = compiled.create_infer_request(), transfers
        self.inputs = [port.get_any_name() for port in compiled.inputs]
        self.outputs = [port.get_any_name() for port in compiled.outputs]

    def bind(self, batch: Feed) -> Call:
        """The timed call for one batch; input arrays are used in place, outputs copied (without `transfers`: views)."""
        if not self._transfers:
            self._tensors = {
                name: openvino.Tensor(array, shared_memory=True) for name, array in named(batch, self.inputs).items()
            }
            for name, tensor in self._tensors.items():
                self._request.set_tensor(name, tensor)
            return self._infer
        infer = partial(self._request.infer, named(batch, self.inputs), share_inputs=True)
        return lambda: infer().to_tuple()

    def _infer(self) -> Sequence[np.ndarray]:
        """Run the batch that was set; the outputs are views that the next call overwrites."""
        return tuple(self._request.infer(share_outputs=True).to_tuple())

    def profiling_info(self) -> list[openvino.ProfilingInfo]:
        """The layers' times, as means over all calls so far; only where profiling was switched on."""
        return self._request.get_profiling_info()


def versions() -> dict[str, str]:
    return versions_of("openvino")


def device(options: Config) -> str:
    return cpu_name()


def build(job: Job, options: Config) -> Built:
    core = openvino.Core()
    try:
        model = core.read_model(job.artifact)
        shapes = job.shape.inputs([port.get_any_name() for port in model.inputs])
        model.reshape({name: list(axes) for name, axes in shapes.items()})
        compiled = core.compile_model(model, "CPU", _properties(job.precision, options))
    except RuntimeError as error:
        raise Failed(f"OpenVINO cannot compile this model: {_reason(error)}") from error
    stream = BytesIO()
    compiled.export_model(stream)
    return Built(data=stream.getvalue(), layers=_layers(compiled), settings=_settings(compiled))


def load(engine: Path, precision: Precision, shape: Shape, options: Config) -> Session:
    chosen = _properties(precision, options)
    if shape.instances == 1:
        return Session(_imported(engine, chosen), options.transfers)
    session = Session(_imported(engine, chosen | {properties.hint.enable_cpu_pinning(): False}), options.transfers)
    session.settings = {"cpu_pinning": "False"}  # OpenVINO would pin all instances to the same cores
    return session


def run_artifact(artifact: Path, way: str, batches: Sequence[Feed]) -> list[Sequence[np.ndarray]]:
    core, outputs = openvino.Core(), []
    chosen = {properties.hint.inference_precision(): openvino.Type.f32} if way == WAYS[1] else {}
    dynamic = None if way else core.compile_model(artifact, "CPU")
    for batch in batches:
        model = core.read_model(artifact)
        arrays = named(batch, [port.get_any_name() for port in model.inputs])
        if dynamic is None:  # a model that fails with a dynamic shape may work with a static one
            model.reshape({name: list(array.shape) for name, array in arrays.items()})
        compiled = dynamic or core.compile_model(model, "CPU", chosen)
        outputs.append(compiled(arrays).to_tuple())
    return outputs


def _imported(engine: Path, chosen: dict[str, Any]) -> openvino.CompiledModel:
    with engine.open("rb") as file:
        return openvino.Core().import_model(file.read(), "CPU", chosen)


def profile(engine: Path, precision: Precision, shape: Shape, options: Config, batch: Feed, seconds: float) -> Profile:
    chosen = _properties(precision, options) | {properties.enable_profiling(): True}
    session = Session(_imported(engine, chosen))
    call = session.bind(batch)
    unprofiled = run_for(seconds / 4, call)
    before = _seconds_so_far(session, unprofiled)
    calls = run_for(seconds, call)
    total = _seconds_so_far(session, unprofiled + calls)
    ran = {info.node_name: info for info in session.profiling_info() if info.status == EXECUTED}
    layers = [_layer_time(info, max(0.0, (total[name] - before[name]) / calls)) for name, info in ran.items()]
    return Profile(tool="OpenVINO's performance counters", calls=calls, layers=layers)


def _seconds_so_far(session: Session, calls: int) -> dict[str, float]:
    """Each layer's total time; OpenVINO's counters are means over all `calls` of a request so far."""
    return {info.node_name: info.real_time.total_seconds() * calls for info in session.profiling_info()}


def cross_checks(
    engine: Path, precision: Precision, shape: Shape, options: Config, batch: Feed, seconds: float
) -> list[CrossCheck]:
    """OpenVINO's benchmark_app on the same engine, with one synchronous request; filling the input is not timed."""
    made = CrossCheck(tool="benchmark_app", definition="one synchronous infer, its input filled before")
    with TemporaryDirectory() as folder:
        blob = Path(folder, "engine.blob")
        blob.symlink_to(engine)
        asked = ["-m", str(blob), "-d", "CPU", "-hint", "none", "-api", "sync", "-t", str(ceil(seconds))]
        asked += ["-infer_precision", _hint(precision, options).get_type_name()]
        asked += ["-nstreams", "1", *(["-nthreads", str(options.threads)] if options.threads else [])]
        done = subprocess.run(leashed([sys.executable, "-c", BENCHMARK_APP, *asked]), capture_output=True, text=True)
    made = replace(made, command=shlex.join(["benchmark_app", *asked]))
    found = re.search(r"Median:\s+([0-9.]+) (us|ms)", done.stdout)
    if found is None:
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        return [replace(made, unavailable=f"benchmark_app ended with code {done.returncode}: {' '.join(last)}")]
    return [replace(made, seconds={"latency": float(found[1]) * {"us": 1e-6, "ms": 1e-3}[found[2]]})]


def _properties(precision: Precision, options: Config) -> dict[str, Any]:
    chosen: dict[Any, Any] = {
        properties.hint.inference_precision(): _hint(precision, options),
        properties.hint.performance_mode(): properties.hint.PerformanceMode.LATENCY,
        properties.num_streams(): 1,
    }
    if options.threads:
        chosen[properties.inference_num_threads()] = options.threads
    return chosen


def _hint(precision: Precision, options: Config) -> openvino.Type:
    """The inference precision: FP16 only on CPUs that have it, else FP32, as OpenVINO would silently run BF16."""
    capabilities = openvino.Core().get_property("CPU", properties.device.capabilities())
    wants_bf16 = precision == Precision.PRECISION_INT8 and options.around_int8 == "bf16"
    if precision == Precision.PRECISION_BF16 or wants_bf16:
        if "BF16" not in capabilities:
            raise Refused("this CPU has no BF16 arithmetic")
        return openvino.Type.bf16
    return openvino.Type.f16 if precision == Precision.PRECISION_FP16 and "FP16" in capabilities else openvino.Type.f32


def _settings(compiled: openvino.CompiledModel) -> dict[str, str]:
    names = {
        "inference_precision": properties.hint.inference_precision(),
        "threads": properties.inference_num_threads(),
        "streams": properties.num_streams(),
        "execution_mode": properties.hint.execution_mode(),
        "performance_mode": properties.hint.performance_mode(),
        "cpu_pinning": properties.hint.enable_cpu_pinning(),
        "hyper_threading": properties.hint.enable_hyper_threading(),
    }
    found = {name: compiled.get_property(key) for name, key in names.items()}
    return {
        name: value.get_type_name() if isinstance(value, openvino.Type) else str(value) for name, value in found.items()
    }


def _layers(compiled: openvino.CompiledModel) -> list[Layer]:
    """The layers of the executed graph, which OpenVINO calls the runtime model, with their precisions."""
    layers = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        kind = str(info["layerType"].value)
        executed = str(info["runtimePrecision"].value)
        name = TYPES.get(executed, executed)
        layers.append(Layer(name=node.get_friendly_name(), type=kind, precision=name, compute=kind in COMPUTE))
    return layers


def _layer_time(info: openvino.ProfilingInfo, seconds: float) -> LayerTime:
    """A layer's time; its precision is the end of the kernel's name, as in jit_avx512_i8 or brgconv_avx512_bf16."""
    executed = info.exec_type.rpartition("_")[2].lower()
    return LayerTime(
        name=info.node_name,
        type=info.node_type,
        precision=TYPES.get(executed, executed),
        compute=info.node_type in COMPUTE,
        seconds=seconds,
        provider=info.exec_type,
    )


def _reason(error: RuntimeError) -> str:
    """The last line of an OpenVINO error: it puts the source location first and the reason last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:500] if lines else first_line(error)
