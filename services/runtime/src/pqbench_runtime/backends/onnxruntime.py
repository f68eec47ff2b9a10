"""ONNX Runtime on the CPU, by its CPU execution provider."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import numpy as np
import onnx
import onnxruntime
from pydantic import Field

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_runtime.backend import Built, Call, Job, Profile, Route, Shape, run_for
from pqbench_runtime.backends._int8_cpu import int8_routes
from pqbench_runtime.backends._onnxruntime import create, fix_dimensions, layers_of, profile_of
from pqbench_runtime.host import cpu_name
from pqbench_wire.process import versions_of
from pqbench_wire.shared.inputs import Feed, named

REQUIRES = ("onnx", "onnxruntime")
TIMED = ("threads",)
ENGINE_FILE = "engine.onnx"
PROVIDER = "CPUExecutionProvider"
ROUTES = (
    Route(
        precision=Precision.PRECISION_FP32,
        form=Form.FORM_ONNX,
        executes=(Precision.PRECISION_FP32,),
        evidence="the plain route",
    ),
    Route(
        precision=Precision.PRECISION_FP16,
        form=Form.FORM_ONNX,
        executes=(Precision.PRECISION_FP16, Precision.PRECISION_FP32),
        evidence="the CPU provider has few FP16 kernels and casts around the rest: halves the file, 0.6-0.9x the speed",
    ),
    *int8_routes("convolutions with unsigned activations run 1.6-2.8x FP32's speed, with signed ones 0.5-0.9x"),
    Route(
        precision=Precision.PRECISION_INT8_DYNAMIC,
        form=Form.FORM_DYNAMIC,
        executes=(Precision.PRECISION_INT8, Precision.PRECISION_FP32),
        demanded=True,
        evidence="ConvInteger and MatMulInteger; only this runtime has them",
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
        evidence="matrix products become MatMulNBits, which unpacks INT4 weights as it goes",
    ),
    Route(
        precision=Precision.PRECISION_SIMULATED,
        form=Form.FORM_ONNX,
        executes=(Precision.PRECISION_FP32,),
        evidence="few bits rounded in FP32 arithmetic: accuracy only, never timed",
    ),
)
WAYS = ("disabled_optimizers=['NchwcTransformer']", "graph_optimization_level=ORT_ENABLE_BASIC")
SCRIPT = """\
import onnxruntime

OPTIONS = onnxruntime.SessionOptions()
OPTIONS.graph_optimization_level = onnxruntime.GraphOptimizationLevel.{level}
SESSION = onnxruntime.InferenceSession(MODEL, OPTIONS, providers=["CPUExecutionProvider"]{more})


def run(x):
    return SESSION.run(None, {{SESSION.get_inputs()[0].name: x}})[0]
"""
SCRIPTS = {
    "": SCRIPT.format(level="ORT_ENABLE_ALL", more=""),
    WAYS[0]: SCRIPT.format(level="ORT_ENABLE_ALL", more=', disabled_optimizers=["NchwcTransformer"]'),
    WAYS[1]: SCRIPT.format(level="ORT_ENABLE_BASIC", more=""),
}
MATMULNBITS_LEVELS = {"fp32": "1", "int8": "4"}  # ONNX Runtime's accuracy levels, by the type of activations


@dataclass(frozen=True, kw_only=True)
class Config:
    """Session options; all engines of a worker share one pool of threads."""

    threads: Annotated[int, Field(ge=0, le=1024, description="intra-op threads; 0: one per physical core")] = 0
    int4_activations: Annotated[
        Literal["fp32", "int8"], Field(description="of products with INT4 weights; int8 is faster and less exact")
    ] = "fp32"


class Session:
    """A loaded engine."""

    settings: Mapping[str, str] = {}

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self.inputs = [one.name for one in session.get_inputs()]
        self.outputs = [one.name for one in session.get_outputs()]

    def bind(self, batch: Feed) -> Call:
        """The timed call for one batch."""
        return functools.partial(self._session.run, None, named(batch, self.inputs))


def versions() -> dict[str, str]:
    return versions_of("onnxruntime", "onnx")


def device(options: Config) -> str:
    return cpu_name()


def build(job: Job, options: Config) -> Built:
    """Optimise the graph for this machine and batch size; the optimised ONNX model is the engine."""
    with TemporaryDirectory() as folder:
        optimised = Path(folder, "engine.onnx")
        settings = _session_options(options)
        settings.optimized_model_filepath = str(optimised)
        settings.graph_optimization_level = level = _optimisation(job.precision)
        fix_dimensions(settings, job.artifact, job.shape)
        create(job.artifact, settings, [PROVIDER])
        data = optimised.read_bytes()
    return Built(
        data=data,
        layers=layers_of(onnx.load_from_string(data)),
        settings={
            "execution_provider": PROVIDER,
            "intra_op_threads": str(options.threads or "one per physical core"),
            "inter_op_threads": "1",
            "thread_pool": "shared by the engines of a worker",
            "execution_mode": settings.execution_mode.name,
            "graph_optimization_level": f"{level.name}, at build time",
            "int4_activations": options.int4_activations,
            "inference_precision": Precision.Name(job.precision).removeprefix("PRECISION_"),
        },
    )


def load(engine: Path, precision: Precision, shape: Shape, options: Config) -> Session:
    return Session(create(engine, _loading(options), [PROVIDER]))


def run_artifact(artifact: Path, way: str, batches: Sequence[Feed]) -> list[Sequence[np.ndarray]]:
    settings, disabled = onnxruntime.SessionOptions(), ["NchwcTransformer"] if way == WAYS[0] else None
    settings.log_severity_level = 3
    if way == WAYS[1]:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(artifact, settings, providers=[PROVIDER], disabled_optimizers=disabled)
    names = [one.name for one in session.get_inputs()]
    return [session.run(None, named(batch, names)) for batch in batches]


def profile(engine: Path, precision: Precision, shape: Shape, options: Config, batch: Feed, seconds: float) -> Profile:
    with TemporaryDirectory() as folder:
        settings = _loading(options)
        settings.enable_profiling, settings.profile_file_prefix = True, str(Path(folder, "profile"))
        session = create(engine, settings, [PROVIDER])
        call = Session(session).bind(batch)
        run_for(seconds / 4, call)
        return profile_of(session, run_for(seconds, call))


def _loading(options: Config) -> onnxruntime.SessionOptions:
    """Options to load an engine, without graph optimisation: optimising it again could only change what was built."""
    settings = _session_options(options)
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return settings


def _session_options(options: Config) -> onnxruntime.SessionOptions:
    """Options of a session in the shared thread pool: spinning threads of its own pool would slow other engines."""
    _thread_pool(options.threads)
    settings = onnxruntime.SessionOptions()
    settings.use_per_session_threads = False
    settings.log_severity_level = 3
    level = MATMULNBITS_LEVELS[options.int4_activations]
    settings.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", level)
    return settings


def _optimisation(precision: Precision) -> onnxruntime.GraphOptimizationLevel:
    """The level of graph optimisation: everything, but basic for FP8.

    Beyond the basic level, ONNX Runtime 1.32 fuses FP8 Q/DQ nodes as if they were INT8, and the outputs are wrong.
    """
    levels = onnxruntime.GraphOptimizationLevel
    return levels.ORT_ENABLE_BASIC if precision == Precision.PRECISION_FP8 else levels.ORT_ENABLE_ALL


@functools.cache
def _thread_pool(threads: int) -> None:
    """Set the size of the process's thread pool before its first session; a worker has engines of one size only."""
    onnxruntime.set_global_thread_pool_sizes(threads, 1)
