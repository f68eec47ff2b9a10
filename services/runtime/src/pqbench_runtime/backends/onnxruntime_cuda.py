"""ONNX Runtime on NVIDIA GPUs, by its CUDA execution provider."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import onnxruntime

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_runtime import cuda
from pqbench_runtime.backend import GPU_TIMED, Built, GpuOptions, Job, Profile, Route, Shape
from pqbench_runtime.backends import _onnxruntime_gpu as shared
from pqbench_runtime.backends._onnxruntime import fix_dimensions, layers_of
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
SCRIPTS = shared.scripts(PROVIDER)


@dataclass(frozen=True, kw_only=True)
class Config(GpuOptions):
    """The options that all GPU backends share; the CUDA provider has no others here."""


def versions() -> dict[str, str]:
    return versions_of("onnxruntime-gpu", "onnx") | {"cuda": cuda.runtime_version()}


def device(options: Config) -> str:
    return shared.device(PROVIDER)


def attempt(options: Config) -> None:
    shared.attempt(PROVIDER)


def build(job: Job, options: Config) -> Built:
    """Optimise the graph for the GPU and batch size, and profile a few runs to see which nodes stay on the CPU."""
    with TemporaryDirectory() as folder:
        optimised = Path(folder, "engine.onnx")
        settings = shared.session_options()
        settings.optimized_model_filepath = str(optimised)
        fix_dimensions(settings, job.artifact, job.shape)
        settings.enable_profiling, settings.profile_file_prefix = True, str(Path(folder, "profile"))
        session = shared.Session(
            _opener(job.artifact, settings, options), job.shape, replace(options, cuda_graph=False)
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
    return shared.Session(_opener(engine, shared.session_options(), options), shape, options)


def profile(engine: Path, precision: Precision, shape: Shape, options: Config, batch: Feed, seconds: float) -> Profile:
    return shared.profiled(lambda settings: _opener(engine, settings, options), shape, options, batch, seconds)


def _opener(model: Path, settings: onnxruntime.SessionOptions, options: Config) -> shared.Opener:
    def opener(stream: Stream, graph: bool) -> onnxruntime.InferenceSession:
        chosen = {
            "device_id": str(cuda.current_device()),
            "user_compute_stream": str(stream.handle.value),
            "use_tf32": str(int(options.tf32)),
            "enable_cuda_graph": str(int(graph)),
        }
        return shared.opened(model, settings, [(PROVIDER, chosen), "CPUExecutionProvider"])

    return opener
