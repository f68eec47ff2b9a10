"""PyTorch: a torch.export program, run eagerly or through torch.compile."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch.utils import _pytree as pytree

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_runtime.backend import Built, Call, Job, Layer, Route, Shape
from pqbench_runtime.host import cpu_name
from pqbench_wire.errors import Failed, InvalidInput
from pqbench_wire.inputs import Feed, Inputs
from pqbench_wire.jobs import first_line
from pqbench_wire.process import versions_of

REQUIRES = ("torch",)
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
COMPUTE = ("conv", "linear", "matmul", "mm", "bmm", "addmm", "scaled_dot_product_attention", "einsum")
TYPES = {torch.float32: "FP32", torch.float16: "FP16", torch.bfloat16: "BF16", torch.int8: "INT8"}


@dataclass(frozen=True, kw_only=True)
class Config:
    """How the program runs."""

    threads: Annotated[int, Field(ge=0, le=1024, description="intra-op threads; 0: one a physical core")] = 0
    mode: Annotated[
        Literal["eager", "compile"], Field(description="as it is, or torch.compile (needs a C++ compiler)")
    ] = "eager"


class Session:
    """A loaded program."""

    settings: Mapping[str, str] = {}

    def __init__(self, program: Callable[..., Any], options: Config, inputs: list[str], outputs: list[str]) -> None:
        self._program = program
        self._options = options
        self.inputs, self.outputs = inputs, outputs

    def bind(self, batch: Feed) -> Call:
        """The timed call for one batch."""
        if self._options.threads:
            torch.set_num_threads(self._options.threads)
        arrays = batch.arrays.values() if isinstance(batch, Inputs) else (batch,)
        inputs, program = [torch.from_numpy(array) for array in arrays], self._program

        def call() -> Sequence[np.ndarray]:
            with torch.inference_mode():
                return [output.numpy() for output in pytree.tree_leaves(program(*inputs))]

        return call


def versions() -> dict[str, str]:
    return versions_of("torch")


def device(options: Config) -> str:
    return cpu_name()


def build(job: Job, options: Config) -> Built:
    """Check that the program loads and runs at this batch size; the archive itself is the engine."""
    data = job.artifact.read_bytes()
    program = _load(data)
    session = _session(program, job.shape, options)
    try:
        session.bind(job.shape.zeros())()
    except Exception as error:
        # Inductor, the C++ compiler and operators raise without a common root.
        raise Failed(f"PyTorch cannot run this program ({options.mode}): {first_line(error)}") from error
    settings = {
        "mode": options.mode,
        "threads": str(torch.get_num_threads()),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "mkldnn": str(torch.backends.mkldnn.is_available()),
        "inference_precision": Precision.Name(job.precision).removeprefix("PRECISION_"),
    }
    return Built(data=data, layers=_layers(program), settings=settings)


def load(engine: Path, precision: Precision, shape: Shape, options: Config) -> Session:
    return _session(_load(engine.read_bytes()), shape, options)


def _session(program: torch.export.ExportedProgram, shape: Shape, options: Config) -> Session:
    """The program names nothing for a caller: inputs and outputs are called as in the ONNX of the same model."""
    module, count = program.module(), len(program.graph_signature.user_outputs)
    inputs = [one.name for one in shape.preprocessing.inputs] or ["input"]
    outputs = ["output"] if count == 1 else [f"output_{index}" for index in range(count)]
    return Session(torch.compile(module) if options.mode == "compile" else module, options, inputs, outputs)


def _load(data: bytes) -> torch.export.ExportedProgram:
    refuse_pickle(data)
    try:
        return torch.export.load(BytesIO(data))
    except Exception as error:
        raise Failed(f"PyTorch cannot load this program: {type(error).__name__}: {first_line(error)}") from error


def refuse_pickle(archive: bytes) -> None:
    """Raise InvalidInput if loading the .pt2 would run pickle: it could run anything."""
    try:
        with zipfile.ZipFile(BytesIO(archive)) as parts:
            names = parts.namelist()
            if "version" in names or len({name.lower() for name in names}) != len(names):
                raise InvalidInput(".pt2 archive: the old format, or a name given twice, could run pickle")
            for name in names:
                if name.endswith("_config.json") and _asks_for_pickle(parts.read(name)):
                    raise InvalidInput(f".pt2 archive: {name} asks for pickle; export plain tensors only")
                if "/sample_inputs/" in name and parts.getinfo(name).file_size:
                    torch.load(BytesIO(parts.read(name)), weights_only=True)
    except zipfile.BadZipFile as error:
        raise InvalidInput(f".pt2 archive: {error}") from error
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise InvalidInput(f".pt2 archive asks for more than plain tensors: {first_line(error)}") from error


def _asks_for_pickle(config: bytes) -> bool:
    return any(entry.get("use_pickle", True) for entry in json.loads(config)["config"].values())


def _layers(program: torch.export.ExportedProgram) -> list[Layer]:
    layers = []
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        value = node.meta.get("val")
        kind = str(node.target).removeprefix("aten.").partition(".")[0]
        precision = TYPES.get(value.dtype, str(value.dtype)) if isinstance(value, torch.Tensor) else "none"
        compute = kind.startswith("conv") or kind in COMPUTE
        layers.append(Layer(name=node.name, type=kind, precision=precision, compute=compute))
    return layers
