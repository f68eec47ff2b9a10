"""PyTorch on the CPU: a torch.export program (.pt2), run eagerly or through torch.compile."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch.profiler import ProfilerActivity
from torch.utils import _pytree as pytree
from torch.utils.benchmark import Timer

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_runtime.backend import Built, Call, CrossCheck, Job, Profile, Route, Shape
from pqbench_runtime.backends._pytorch import layers_of, load_program, names, profiled, writes_into_inputs
from pqbench_runtime.host import cpu_name
from pqbench_wire.errors import Failed, first_line
from pqbench_wire.process import versions_of
from pqbench_wire.shared.inputs import Feed, Inputs

REQUIRES = ("torch",)
TIMED = ("threads", "mode")
ENGINE_FILE = "engine.pt2"
ROUTES = (
    Route(
        precision=Precision.PRECISION_FP32,
        form=Form.FORM_PT2,
        executes=(Precision.PRECISION_FP32,),
        evidence="the plain route",
    ),
    Route(
        precision=Precision.PRECISION_FP16,
        form=Form.FORM_PT2,
        executes=(Precision.PRECISION_FP16, Precision.PRECISION_FP32),
        evidence="the program's own half-precision operators; layers that would overflow stay FP32",
    ),
    Route(
        precision=Precision.PRECISION_BF16,
        form=Form.FORM_PT2,
        executes=(Precision.PRECISION_BF16,),
        evidence="the program's own BF16 operators",
    ),
    Route(
        precision=Precision.PRECISION_SIMULATED,
        form=Form.FORM_PT2,
        executes=(Precision.PRECISION_FP32,),
        evidence="few bits rounded in FP32 arithmetic: accuracy only, never timed",
    ),
)

WAYS = ()
SCRIPTS = {
    "": """\
import torch

PROGRAM = torch.export.load(MODEL).module()


def run(x):
    with torch.inference_mode():
        return PROGRAM(torch.from_numpy(x)).float().numpy()
"""
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of PyTorch on the CPU."""

    threads: Annotated[int, Field(ge=0, le=1024, description="intra-op threads; 0: one per physical core")] = 0
    mode: Annotated[
        Literal["eager", "compile"], Field(description="as it is, or torch.compile (needs a C++ compiler)")
    ] = "eager"


class Session:
    """A loaded program."""

    settings: Mapping[str, str] = {}

    def __init__(
        self, program: Callable[..., Any], options: Config, inputs: list[str], outputs: list[str], writes: bool = False
    ) -> None:
        self._program = program
        self._options = options
        self._writes = writes  # the program changes its inputs in place: each call gets copies
        self.inputs, self.outputs = inputs, outputs

    def bind(self, batch: Feed) -> Call:
        """The timed call for one batch."""
        if self._options.threads:
            torch.set_num_threads(self._options.threads)
        inputs, program, writes = _inputs(batch), self._program, self._writes

        def call() -> Sequence[np.ndarray]:
            with torch.inference_mode():
                given = [one.clone() for one in inputs] if writes else inputs
                return [output.numpy() for output in pytree.tree_leaves(program(*given))]

        return call


def versions() -> dict[str, str]:
    return versions_of("torch")


def device(options: Config) -> str:
    return cpu_name()


def build(job: Job, options: Config) -> Built:
    """Check that the program loads and runs at this batch size; the .pt2 archive itself is the engine."""
    data = job.artifact.read_bytes()
    program = load_program(data)
    session = _session(program, job.shape, options)
    try:
        session.bind(job.shape.zeros())()
    except Exception as error:
        # Exceptions of Inductor, the C++ compiler and operators have no other base class in common.
        raise Failed(f"PyTorch cannot run this program ({options.mode}): {first_line(error)}") from error
    settings = {
        "mode": options.mode,
        "threads": str(torch.get_num_threads()),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "mkldnn": str(torch.backends.mkldnn.is_available()),
        "inference_precision": Precision.Name(job.precision).removeprefix("PRECISION_"),
    }
    return Built(data=data, layers=layers_of(program), settings=settings)


def load(engine: Path, precision: Precision, shape: Shape, options: Config) -> Session:
    return _session(load_program(engine.read_bytes()), shape, options)


def profile(engine: Path, precision: Precision, shape: Shape, options: Config, batch: Feed, seconds: float) -> Profile:
    call = load(engine, precision, shape, options).bind(batch)
    return profiled(call, seconds, [ProfilerActivity.CPU])


def preload() -> None:
    with contextlib.suppress(ModuleNotFoundError):  # where another PyTorch has it elsewhere, each fork imports it
        importlib.import_module("torch.export.pt2_archive._package")  # torch.export.load does, when it is called first


def run_artifact(artifact: Path, way: str, batches: Sequence[Feed]) -> list[Sequence[np.ndarray]]:
    program = load_program(artifact.read_bytes()).module()
    with torch.inference_mode():
        returned = [program(*_inputs(batch)) for batch in batches]
    return [[output.numpy() for output in pytree.tree_leaves(one)] for one in returned]


def cross_checks(
    engine: Path, precision: Precision, shape: Shape, options: Config, batch: Feed, seconds: float
) -> list[CrossCheck]:
    """The median by PyTorch's torch.utils.benchmark.Timer, on the same program."""
    call = load(engine, precision, shape, options).bind(batch)
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    median = timer.blocked_autorange(min_run_time=seconds).median
    definition = "blocks of calls, each block's time over its calls"
    return [CrossCheck(tool="torch.utils.benchmark", definition=definition, seconds={"latency": median})]


def _inputs(batch: Feed) -> list[torch.Tensor]:
    arrays = batch.arrays.values() if isinstance(batch, Inputs) else (batch,)
    return [torch.from_numpy(array) for array in arrays]


def _session(program: torch.export.ExportedProgram, shape: Shape, options: Config) -> Session:
    module, (inputs, outputs) = program.module(), names(program, shape)
    writes = writes_into_inputs(program)
    return Session(torch.compile(module) if options.mode == "compile" else module, options, inputs, outputs, writes)
