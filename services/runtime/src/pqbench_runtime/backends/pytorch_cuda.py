"""PyTorch on NVIDIA GPUs: a torch.export program (.pt2), eager or compiled, by default launched as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch.export.passes import move_to_device_pass
from torch.profiler import ProfilerActivity
from torch.utils import _pytree as pytree
from torch.utils.benchmark import Timer

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_runtime import gpu
from pqbench_runtime.backend import GPU_TIMED, Built, Call, CrossCheck, GpuOptions, Job, Profile, Route, Shape
from pqbench_runtime.backends._pytorch import layers_of, load_program, names, profiled
from pqbench_runtime.cuda import Pinned, Stream
from pqbench_runtime.device_call import WARM_UP, DeviceCall, as_graph
from pqbench_runtime.tf32 import WIDE, with_tf32
from pqbench_wire.errors import Failed, Unavailable, first_line
from pqbench_wire.process import versions_of
from pqbench_wire.shared.inputs import Feed, Inputs

REQUIRES = ("torch", "pynvml")
ON_GPU = True
TIMED = (*GPU_TIMED, "mode")
ENGINE_FILE = "engine.pt2"
DEVICE = "cuda"
ROUTES = (
    Route(
        precision=Precision.PRECISION_FP32,
        form=Form.FORM_PT2,
        executes=WIDE,
        evidence="the plain route; TF32 unless tf32 is off",
    ),
    Route(
        precision=Precision.PRECISION_FP16,
        form=Form.FORM_PT2,
        executes=(Precision.PRECISION_FP16, *WIDE),
        demanded=True,
        evidence="the program's own half-precision operators; layers that would overflow stay FP32",
    ),
    Route(
        precision=Precision.PRECISION_BF16,
        form=Form.FORM_PT2,
        executes=(Precision.PRECISION_BF16,),
        demanded=True,
        evidence="the program's own BF16 operators",
    ),
)
SCRIPTS = {
    "": """\
import torch
from torch.export.passes import move_to_device_pass

PROGRAM = move_to_device_pass(torch.export.load(MODEL), "cuda").module()


def run(x):
    with torch.inference_mode():
        return PROGRAM(torch.from_numpy(x).to("cuda")).float().cpu().numpy()
"""
}


@dataclass(frozen=True, kw_only=True)
class Config(GpuOptions):
    """Options of PyTorch on a GPU."""

    mode: Annotated[
        Literal["eager", "compile"], Field(description="as it is, or torch.compile (needs a C++ compiler)")
    ] = "eager"
    sparse_weights: Annotated[
        bool, Field(description="run linear layers with 2:4 sparse FP16 or BF16 weights on sparse tensor cores")
    ] = False


class Session:
    """A loaded program with its buffers, on its own CUDA stream."""

    def __init__(self, program: torch.export.ExportedProgram, shape: Shape, options: Config) -> None:
        # The older of PyTorch's two settings for TF32: if both are used, torch.export refuses to work.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.tf32
        self._options, self._stream = options, Stream()
        self._queue = torch.cuda.ExternalStream(self._stream.handle.value)
        module = move_to_device_pass(program, DEVICE).module()
        self.sparse = _sparsify(module) if options.sparse_weights else []
        self._module = torch.compile(module) if options.mode == "compile" else module
        self.inputs, self.outputs = names(program, shape)
        zeros = shape.zeros()
        arrays = list(zeros.arrays.values()) if isinstance(zeros, Inputs) else [zeros]
        self._hosts = [Pinned(array.shape, array.dtype) for array in arrays]
        self._inputs = [torch.from_numpy(array).to(DEVICE) for array in arrays]
        self._results: list[torch.Tensor] = []
        self._compute, self.settings = self._launcher()
        self._outputs = [Pinned(tuple(one.shape), one.cpu().numpy().dtype) for one in self._results]

    def bind(self, batch: Feed) -> Call:
        """The timed call for one batch, which is copied into pinned memory now."""
        arrays = batch.arrays.values() if isinstance(batch, Inputs) else (batch,)
        for pinned, array in zip(self._hosts, arrays, strict=True):
            np.copyto(pinned.host, array)
        outputs, options = [pinned.host for pinned in self._outputs], self._options
        transfers, spin = options.transfers, options.spin
        return DeviceCall(self._stream, self._upload, self._compute, self._download, outputs, transfers, spin)

    def _upload(self) -> None:
        with torch.cuda.stream(self._queue):
            for pinned, tensor in zip(self._hosts, self._inputs, strict=True):
                tensor.copy_(torch.from_numpy(pinned.host), non_blocking=True)

    def _download(self) -> None:
        with torch.cuda.stream(self._queue):
            for pinned, tensor in zip(self._outputs, self._results, strict=True):
                torch.from_numpy(pinned.host).copy_(tensor, non_blocking=True)

    def _run(self) -> None:
        with torch.cuda.stream(self._queue), torch.inference_mode():
            self._results = pytree.tree_leaves(self._module(*self._inputs))

    def _launcher(self) -> tuple[Callable[[], None], dict[str, str]]:
        """What starts the computation, a captured graph or the program itself, and the setting that says which."""
        for _ in range(WARM_UP):
            self._run()
        self._stream.synchronize()
        return as_graph(self._options.cuda_graph, self._captured, self._plain)

    def _plain(self) -> Callable[[], None]:
        self._run()  # also where a capture failed, which leaves no results
        return self._run

    def _captured(self) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._queue, capture_error_mode="thread_local"):
            self._run()

        def launch() -> None:
            with torch.cuda.stream(self._queue):
                graph.replay()

        return launch


def versions() -> dict[str, str]:
    return versions_of("torch") | {"cuda": str(torch.version.cuda)}


def device(options: Config) -> str:
    if not torch.cuda.is_available():
        raise Unavailable("PyTorch sees no CUDA device")
    return gpu.device()


def build(job: Job, options: Config) -> Built:
    """Check that the program loads and runs at this batch size; the .pt2 archive itself is the engine."""
    data = job.artifact.read_bytes()
    program = load_program(data)
    layers = layers_of(program)
    try:
        session = Session(program, job.shape, options)
        session.bind(job.shape.zeros())()
    except Exception as error:
        # Exceptions of Inductor, the C++ compiler and operators have no other base class in common.
        raise Failed(f"PyTorch cannot run this program ({options.mode}): {first_line(error)}") from error
    settings = {
        "mode": options.mode,
        "tf32": str(torch.backends.cuda.matmul.allow_tf32),
        "inference_precision": Precision.Name(job.precision).removeprefix("PRECISION_"),
    }
    if options.sparse_weights:
        settings["sparse_layers"] = ", ".join(session.sparse) or "none has 2:4 sparse FP16 or BF16 weights"
    return Built(data=data, layers=with_tf32(layers, options), settings=settings)


def load(engine: Path, precision: Precision, shape: Shape, options: Config) -> Session:
    return Session(load_program(engine.read_bytes()), shape, options)


def profile(engine: Path, precision: Precision, shape: Shape, options: Config, batch: Feed, seconds: float) -> Profile:
    call = load(engine, precision, shape, replace(options, cuda_graph=False)).bind(batch)
    return profiled(call, seconds, [ProfilerActivity.CPU, ProfilerActivity.CUDA])


def cross_checks(
    engine: Path, precision: Precision, shape: Shape, options: Config, batch: Feed, seconds: float
) -> list[CrossCheck]:
    """The median by PyTorch's torch.utils.benchmark.Timer, on the same program."""
    call = load(engine, precision, shape, options).bind(batch)
    median = Timer("call()", globals={"call": call}).blocked_autorange(min_run_time=seconds).median
    definition = "blocks of calls, each block's time over its calls"
    return [CrossCheck(tool="torch.utils.benchmark", definition=definition, seconds={"latency": median})]


def _sparsify(module: torch.fx.GraphModule) -> list[str]:
    """Convert linear layers' weights to PyTorch's 2:4 sparse format where possible; returns their names."""
    weights = [node.args[1] for node in module.graph.nodes if node.target is torch.ops.aten.linear.default]
    found = []
    for name in dict.fromkeys(node.target for node in weights if node.op == "get_attr"):
        parameter = module.get_parameter(name)
        if not is_semi_structured(parameter):
            continue
        owner, _, leaf = name.rpartition(".")
        compressed = torch.sparse.to_sparse_semi_structured(parameter.detach())
        setattr(module.get_submodule(owner), leaf, torch.nn.Parameter(compressed, requires_grad=False))
        found.append(name)
    return found


def is_semi_structured(weight: torch.Tensor) -> bool:
    """Whether a weight [out, in] is FP16 or BF16, has at most 2 non-zeros in every 4 inputs, and a suitable size."""
    if weight.dtype not in (torch.float16, torch.bfloat16) or weight.shape[1] % 64 or weight.shape[0] % 32:
        return False
    return bool(((weight.reshape(-1, 4) != 0).sum(1) <= 2).all())
