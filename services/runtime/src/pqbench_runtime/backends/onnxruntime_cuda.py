"""ONNX Runtime on NVIDIA GPUs, by its CUDA execution provider."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_runtime import cuda
from pqbench_runtime.backend import GPU_TIMED, Built, GpuOptions, Job, Profile, Route, Shape
from pqbench_runtime.backends import _onnxruntime_gpu as shared
from pqbench_runtime.backends._onnxruntime import free_dimensions, layers_of
from pqbench_runtime.cuda import Stream
from pqbench_runtime.tf32 import WIDE, with_tf32
from pqbench_wire.process import versions_of
from pqbench_wire.shared.inputs import Feed

REQUIRES = ("onnx", "onnxruntime", "pynvml")
ON_GPU = True
TIMED = GPU_TIMED
ENGINE_FILE = "engine.onnx"
PROVIDER = "CUDAExecutionProvider"
ROUTES = (
    Route(
        precision=Precision.PRECISION_FP32,
        form=Form.FORM_ONNX,
        executes=WIDE,
        evidence="the plain route; TF32 unless tf32 is off",
    ),
    Route(
        precision=Precision.PRECISION_FP16,
        form=Form.FORM_ONNX,
        executes=(Precision.PRECISION_FP16, *WIDE),
        demanded=True,
        evidence="the ONNX's own half-precision tensors; INT8 is refused: the provider has no INT8 kernels",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Config(GpuOptions):
    """The options that all GPU backends share; the CUDA provider has no others here."""


def versions() -> dict[str, str]:
    return versions_of("onnxruntime-gpu", "onnx") | {"cuda": cuda.runtime_version()}


def device(options: Config) -> str:
    return shared.device(PROVIDER)


def build(job: Job, options: Config) -> Built:
    """Optimise the graph for the GPU and batch size, and profile a few runs to see which nodes stay on the CPU."""
    with TemporaryDirectory() as folder:
        optimised = Path(folder, "engine.onnx")
        settings = shared.session_options()
        settings.optimized_model_filepath = str(optimised)
        for axis, size in free_dimensions(job.artifact, job.shape).items():
            settings.add_free_dimension_override_by_name(axis, size)
        settings.enable_profiling, settings.profile_file_prefix = True, str(Path(folder, "profile"))
        session = shared.Session(
            job.artifact, settings, _providers(options), job.shape, replace(options, cuda_graph=False)
        )
        ran = session.profile(job.shape.zeros(), seconds=0.0)
        data = optimised.read_bytes()
    on_cpu = [layer.type for layer in ran.layers if layer.provider == "CPU"]
    return Built(
        data=data,
        layers=with_tf32(layers_of(onnx.load_from_string(data)), options),
        settings={
            "execution_provider": PROVIDER,
            "on_cpu": ", ".join(sorted(set(on_cpu))) or "no node",
            "inference_precision": Precision.Name(job.precision).removeprefix("PRECISION_"),
        },
    )


def load(engine: Path, precision: Precision, shape: Shape, options: Config) -> shared.Session:
    return shared.Session(engine, shared.session_options(), _providers(options), shape, options)


def profile(engine: Path, precision: Precision, shape: Shape, options: Config, batch: Feed, seconds: float) -> Profile:
    with TemporaryDirectory() as folder:
        settings = shared.session_options()
        settings.enable_profiling, settings.profile_file_prefix = True, str(Path(folder, "profile"))
        without_graph = replace(options, cuda_graph=False)
        session = shared.Session(engine, settings, _providers(options), shape, without_graph)
        return session.profile(batch, seconds)


def _providers(options: Config) -> shared.Providers:
    def providers(stream: Stream, graph: bool) -> Sequence[Any]:
        chosen = {
            "device_id": str(cuda.current_device()),
            "user_compute_stream": str(stream.handle.value),
            "use_tf32": str(int(options.tf32)),
            "enable_cuda_graph": str(int(graph)),
        }
        return [(PROVIDER, chosen), "CPUExecutionProvider"]

    return providers
