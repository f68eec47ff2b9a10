"""TensorRT for RTX 1.4 to 1.7: plans are built ahead of time, also without a GPU, and compiled for it when loaded.

Sources: the bindings of each version and NVIDIA's documentation of TensorRT for RTX. A plan holds code for the compute
capabilities that it was built for; the GPU's own kernels are compiled when it is loaded, before anything is timed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tensorrt_rtx_bindings as trt
from pydantic import Field

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_runtime import cuda, gpu
from pqbench_runtime.backend import GPU_TIMED, Built, GpuOptions, Job, Profile, Route, Shape
from pqbench_runtime.backends._tensorrt.inspector import layers_of, sparse_tactics
from pqbench_runtime.backends._tensorrt.log import log_of
from pqbench_runtime.backends._tensorrt.monitor import monitor
from pqbench_runtime.backends._tensorrt.network import add_profile, layers_in, parse, serialized, set_effort, set_flags
from pqbench_runtime.backends._tensorrt.script import scripts
from pqbench_runtime.backends._tensorrt.session import Engine, Session
from pqbench_runtime.tf32 import WIDE
from pqbench_wire.errors import Failed, InvalidInput, Unavailable
from pqbench_wire.shared.inputs import Feed

REQUIRES = ("tensorrt_rtx_bindings", "tensorrt_rtx_libs")
ON_GPU = True
TIMED = GPU_TIMED
ENGINE_FILE = "engine.rtx"
VERSION = tuple(int(part) for part in trt.__version__.split(".")[:2])
NAME = f"TensorRT for RTX {trt.__version__}"
FP32, FP16, BF16 = Precision.PRECISION_FP32, Precision.PRECISION_FP16, Precision.PRECISION_BF16
INT8, FP8, INT4 = Precision.PRECISION_INT8, Precision.PRECISION_FP8, Precision.PRECISION_INT4
ROUTES = (
    Route(precision=FP32, form=Form.FORM_ONNX, executes=WIDE, evidence="FP32 tensors, or TF32 where that is on"),
    Route(precision=FP16, form=Form.FORM_ONNX, executes=(FP16, *WIDE), evidence="the ONNX's own types", demanded=True),
    Route(precision=BF16, form=Form.FORM_ONNX, executes=(BF16, *WIDE), evidence="the ONNX's own types", demanded=True),
    Route(precision=INT8, form=Form.FORM_QDQ_TYPED, executes=(INT8, FP16, *WIDE), evidence="Q/DQ in an FP16 body"),
    Route(precision=FP8, form=Form.FORM_QDQ_TYPED, executes=(FP8, FP16, *WIDE), evidence="Q/DQ in an FP16 body"),
    Route(precision=INT4, form=Form.FORM_QDQ_TYPED, executes=(INT4, FP16, *WIDE), evidence="weights, unpacked to FP16"),
)
SCRIPTS = scripts("tensorrt_rtx_bindings", host_code=False)


def _capability(name: str) -> str:
    """A member of ComputeCapability as NVIDIA writes it: "SM86" is "8.6", "SM120" is "12.0"."""
    return f"{name[2:-1]}.{name[-1]}"


KNOWN = sorted((name for name in dir(trt.ComputeCapability) if name.startswith("SM")), key=lambda name: int(name[2:]))
CAPABILITIES = {_capability(name): getattr(trt.ComputeCapability, name) for name in KNOWN}
WITHOUT_GPU = ("8.6", "8.9", "12.0")
KERNEL_MB = 0.136  # of a quantized convolution, in a plan
# What the builder of 1.7 refuses for older compute capabilities: precision -> the first that has it, and what.
LEAST = {
    FP32: ("8.0", "FP32 matrix products"),
    BF16: ("8.0", "BF16"),
    FP8: ("8.9", "FP8"),
    INT4: ("8.0", "INT4"),
}


@dataclass(frozen=True, kw_only=True)
class Config(GpuOptions):
    """Options of TensorRT for RTX."""

    compute_capabilities: Annotated[
        tuple[Literal["7.5", "8.0", "8.6", "8.9", "12.0", "12.1"], ...],
        Field(description="for which GPUs a plan is built; none: the GPU that is there, else 8.6, 8.9 and 12.0"),
    ] = ()
    optimization_level: Annotated[
        int | None, Field(ge=0, le=5, description="effort of the builder; none: the library's default")
    ] = None
    workspace_mb: Annotated[
        int | None, Field(ge=1, description="limit of scratch memory in MiB; none: the library's default")
    ] = None
    sparse_weights: Annotated[bool, Field(description="let 2:4 sparse weights use sparse tensor cores")] = False


def versions() -> dict[str, str]:
    return {"tensorrt-rtx": trt.__version__}


def device(options: Config) -> str:
    """The GPU. Raises Unavailable where there is none that can be used, or plans are built for others."""
    if (here := _gpu()) not in _wanted(options):
        raise Unavailable(f"the CUDA device has compute capability {here}, for which no plan is built")
    return gpu.device()


def built_for(options: Config) -> str:
    """The compute capabilities that a plan is built for. Raises InvalidInput for one that this version lacks."""
    if unknown := [one for one in options.compute_capabilities if one not in CAPABILITIES]:
        raise InvalidInput(f"compute_capabilities: {NAME} builds for {', '.join(CAPABILITIES)}, not {unknown[0]}")
    return ", ".join(_wanted(options))


def _wanted(options: Config) -> tuple[str, ...]:
    here = _usable_gpu()
    return options.compute_capabilities or ((here,) if here in CAPABILITIES else WITHOUT_GPU)


def _gpu() -> str:
    """The GPU's compute capability, as "8.9". Raises Unavailable where there is none that can be used."""
    if not gpu.is_present():
        raise Unavailable("no CUDA device")
    try:
        return "{}.{}".format(*cuda.capability())
    except Failed as error:
        raise Unavailable(f"no CUDA device can be used: {error}") from error


def _usable_gpu() -> str:
    """The same, or an empty text where there is none."""
    try:
        return _gpu()
    except Unavailable:
        return ""


def refusals(options: Config) -> dict[Precision, str]:
    """The precisions that NVIDIA's builder refuses: for these compute capabilities or, before 1.5, without a GPU."""
    found: dict[Precision, str] = {}
    if VERSION < (1, 5) and not _usable_gpu():
        why = f"{NAME} builds quantized networks only where a GPU is, from 1.5 on anywhere"
        found = dict.fromkeys((INT8, FP8, INT4), why)
    for precision, (least, what) in LEAST.items():
        if too_old := [one for one in _wanted(options) if _number(one) < _number(least)]:
            found[precision] = (
                f"{NAME} has {what} from compute capability {least} on, and this target is built for {too_old[0]}: "
                "set compute_capabilities"
            )
    return found


def _number(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split("."))


def build(job: Job, options: Config) -> Built:
    """Build a plan; without a GPU that can load it, its layers are the network's, of unknown precision."""
    log = log_of(trt)
    log.begin()
    trt.init_libnvinfer_plugins(log, "")
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parse(trt, NAME, job.artifact.read_bytes(), network, log)
    config = builder.create_builder_config()
    settings = _configure(config, options)
    add_profile(builder, config, network, job)
    config.progress_monitor = monitor(trt, job.report)
    plan = serialized(NAME, builder, network, config, log)
    if _usable_gpu() in _wanted(options):
        layers = layers_of(Engine(trt, NAME, plan).information())
        settings |= {"sparse_tactics": sparse_tactics(layers)} if options.sparse_weights else {}
    else:
        layers = layers_in(trt, network)
    precision = Precision.Name(job.precision).removeprefix("PRECISION_")
    settings |= _kernels(network)
    return Built(data=plan, layers=layers, settings=settings | {"inference_precision": precision})


def _kernels(network: Any) -> dict[str, str]:
    """What the kernels of quantized convolutions add to a plan, for an engine's settings; nothing without any.

    The builder of 1.5 to 1.7 compiles the scales into them: each such layer has a kernel of its own in the plan. Those
    of floating-point layers are compiled when a plan is loaded and take no room in it. Found with chains of layers.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    narrow = {layer.get_output(0).name for layer in layers if layer.type == trt.LayerType.DEQUANTIZE}
    count = sum(layer.type == trt.LayerType.CONVOLUTION and layer.get_input(0).name in narrow for layer in layers)
    what = f"{count} for as many quantized convolutions, about {count * KERNEL_MB:.1f} MB of the plan"
    return {"kernels": what} if count else {}


def load(engine: Path, precision: Precision, shape: Shape, options: Config) -> Session:
    """Load a plan; the GPU's kernels are compiled now, eagerly, before anything is timed."""
    loaded = Engine(trt, NAME, engine.read_bytes())
    runtime = loaded.cuda.create_runtime_config()
    runtime.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    runtime.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED  # pqbench captures the graph itself, as everywhere
    return Session(loaded, loaded.cuda.create_execution_context(runtime), shape, options)


def profile(engine: Path, precision: Precision, shape: Shape, options: Config, batch: Feed, seconds: float) -> Profile:
    session = load(engine, precision, shape, replace(options, cuda_graph=False))
    session.bind(batch)
    return session.profile(seconds)


def _configure(config: Any, options: Config) -> dict[str, str]:
    wanted = {
        "TF32": options.tf32,
        "SPARSE_WEIGHTS": options.sparse_weights,
        "REQUIRE_USER_ALLOCATION": options.cuda_graph,  # memory that the library allocates itself cannot be captured
    }
    capabilities = _wanted(options)
    config.num_compute_capabilities = len(capabilities)
    for index, name in enumerate(capabilities):
        config.set_compute_capability(CAPABILITIES[name], index)
    return set_effort(trt, config, options.optimization_level, options.workspace_mb) | {
        "built_for": ", ".join(capabilities),
        "builder_flags": set_flags(trt, config, wanted),
        "profile": "batch static",
    }
