"""OpenVINO on the CPU; the inference precision is always set, never left to its default (BF16)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import openvino
from openvino import properties
from pydantic import Field

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_runtime.backend import Built, Call, Job, Layer, Route, Shape
from pqbench_runtime.host import cpu_name
from pqbench_wire.errors import Failed, Refused
from pqbench_wire.inputs import Feed, named
from pqbench_wire.jobs import first_line
from pqbench_wire.process import versions_of

REQUIRES = ("openvino",)
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
    Route(
        precision=Precision.PRECISION_INT8,
        form=Form.FORM_QDQ_UNSIGNED,
        executes=(Precision.PRECISION_INT8, Precision.PRECISION_FP32),
        demanded=True,
        evidence="2-10x FP32's speed; signed activations with INT8 weights fail to compile under some hints",
    ),
    Route(
        precision=Precision.PRECISION_INT8,
        form=Form.FORM_QDQ_TOOL,
        executes=(Precision.PRECISION_INT8, Precision.PRECISION_FP32),
        evidence="for comparing tools as they come: 0.3-3x FP32's speed, by the tool's placement",
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
TYPES = {"f32": "FP32", "f16": "FP16", "bf16": "BF16", "i8": "INT8", "u8": "INT8", "i4": "INT4", "u4": "INT4"}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the CPU device."""

    threads: Annotated[int, Field(ge=0, le=1024, description="inference threads; 0: one a physical core")] = 0


class Session:
    """A compiled model with one infer request."""

    settings: Mapping[str, str] = {}

    def __init__(self, compiled: openvino.CompiledModel) -> None:
        self._request = compiled.create_infer_request()
        self.inputs = [port.get_any_name() for port in compiled.inputs]
        self.outputs = [port.get_any_name() for port in compiled.outputs]

    def bind(self, batch: Feed) -> Call:
        """The timed call for one batch; the input arrays are used in place, the outputs copied out."""
        infer = partial(self._request.infer, named(batch, self.inputs), share_inputs=True)
        return lambda: infer().to_tuple()


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
    with engine.open("rb") as file:
        compiled = openvino.Core().import_model(file.read(), "CPU", _properties(precision, options))
    return Session(compiled)


def _properties(precision: Precision, options: Config) -> dict[str, Any]:
    chosen: dict[Any, Any] = {
        properties.hint.inference_precision(): _hint(precision),
        properties.hint.performance_mode(): properties.hint.PerformanceMode.LATENCY,
        properties.num_streams(): 1,
    }
    if options.threads:
        chosen[properties.inference_num_threads()] = options.threads
    return chosen


def _hint(precision: Precision) -> openvino.Type:
    """FP16 only where the CPU has it: asked for elsewhere, OpenVINO silently runs BF16."""
    capabilities = openvino.Core().get_property("CPU", properties.device.capabilities())
    if precision == Precision.PRECISION_BF16:
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
    return {name: str(compiled.get_property(key)) for name, key in names.items()}


def _layers(compiled: openvino.CompiledModel) -> list[Layer]:
    """The executed graph: the runtime model notes each node's precision."""
    layers = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        kind = str(info["layerType"].value)
        executed = str(info["runtimePrecision"].value)
        name = TYPES.get(executed, executed)
        layers.append(Layer(name=node.get_friendly_name(), type=kind, precision=name, compute=kind in COMPUTE))
    return layers


def _reason(error: RuntimeError) -> str:
    """OpenVINO puts the source location first and the reason last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:500] if lines else first_line(error)
