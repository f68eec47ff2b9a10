"""ONNX Runtime on NVIDIA RTX GPUs, by NVIDIA's plug-in execution provider, which holds TensorRT for RTX.

Sources: the provider's header of options in its wheel, and ONNX Runtime's documentation of plug-in providers. ONNX
Runtime registers the provider's library and gives it the GPUs by device; the CPU build of ONNX Runtime is enough.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import onnxruntime
import onnxruntime_ep_nv_tensorrt_rtx as plugin
from pydantic import Field

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_runtime import cuda, gpu
from pqbench_runtime.backend import ENGINE, GPU_TIMED, Built, GpuOptions, Job, Profile, Route, Shape
from pqbench_runtime.backends import _onnxruntime_gpu as shared
from pqbench_runtime.backends._onnxruntime import create, fix_dimensions
from pqbench_runtime.cuda import Stream
from pqbench_runtime.tf32 import WIDE
from pqbench_wire.errors import Failed, Unavailable, first_line
from pqbench_wire.process import versions_of
from pqbench_wire.shared.inputs import Feed

REQUIRES = ("onnx", "onnxruntime", "onnxruntime_ep_nv_tensorrt_rtx", "pynvml")
ON_GPU = True
TIMED = GPU_TIMED
ENGINE_FILE = "engine.onnx"
PROVIDER = "NvTensorRTRTXExecutionProvider"
CONTEXT = "context.onnx"
FP32, FP16, BF16 = Precision.PRECISION_FP32, Precision.PRECISION_FP16, Precision.PRECISION_BF16
INT8, FP8, INT4 = Precision.PRECISION_INT8, Precision.PRECISION_FP8, Precision.PRECISION_INT4
ROUTES = (
    Route(precision=FP32, form=Form.FORM_ONNX, executes=WIDE, evidence="the ONNX's own types; strongly typed"),
    Route(precision=FP16, form=Form.FORM_ONNX, executes=(FP16, *WIDE), evidence="the ONNX's own types"),
    Route(precision=BF16, form=Form.FORM_ONNX, executes=(BF16, *WIDE), evidence="the ONNX's own types"),
    Route(precision=INT8, form=Form.FORM_QDQ_TYPED, executes=(INT8, FP16, *WIDE), evidence="Q/DQ in an FP16 body"),
    Route(precision=FP8, form=Form.FORM_QDQ_TYPED, executes=(FP8, FP16, *WIDE), evidence="Q/DQ in an FP16 body"),
    Route(precision=INT4, form=Form.FORM_QDQ_TYPED, executes=(INT4, FP16, *WIDE), evidence="weights, unpacked to FP16"),
)

SCRIPTS = {
    ENGINE: """\
import ctypes

import onnxruntime
import onnxruntime_ep_nv_tensorrt_rtx as plugin

PROVIDER = "NvTensorRTRTXExecutionProvider"
LIBRARY = Path(plugin.get_library_path())
for runtime in LIBRARY.parent.glob("libcudart.so.*"):
    ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
onnxruntime.register_execution_provider_library(PROVIDER, str(LIBRARY))
DEVICES = [one for one in onnxruntime.get_ep_devices() if one.ep_name == PROVIDER]
if not DEVICES:
    sys.exit(f"{PROVIDER} takes no GPU of this machine")
OPTIONS = onnxruntime.SessionOptions()
OPTIONS.add_provider_for_devices(DEVICES[:1], {})
SESSION = onnxruntime.InferenceSession(MODEL, OPTIONS)

"""
    + shared.RUN
}


@dataclass(frozen=True, kw_only=True)
class Config(GpuOptions):
    """Options of the provider; others stay at its defaults."""

    tf32: Annotated[Literal[True], Field(description="FP32 products may run in TF32: the provider has no switch")] = (
        True
    )

    cuda_graph: Annotated[
        bool, Field(description="one captured CUDA graph; ONNX Runtime waits for it inside the call, in `compute`")
    ] = False
    workspace_mb: Annotated[
        int | None, Field(ge=1, description="limit of scratch memory in MiB; none: the library's default")
    ] = None


def versions() -> dict[str, str]:
    return versions_of("onnxruntime", "onnxruntime-gpu", "onnx", "onnxruntime-ep-nv-tensorrt-rtx-cu12")


def device(options: Config) -> str:
    _device()
    return gpu.device()


@functools.cache
def _registered() -> str:
    """Register the provider's library with ONNX Runtime, once; returns why that fails, or an empty text."""
    library = Path(plugin.get_library_path())
    try:
        for runtime in library.parent.glob("libcudart.so.*"):  # the wheel has it, under a name that is not looked for
            ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
        onnxruntime.register_execution_provider_library(PROVIDER, str(library))
    except Exception as error:
        # ONNX Runtime's exceptions have no other base class in common.
        return first_line(error).rpartition("with error: ")[2]
    return ""


def _device() -> Any:
    """ONNX Runtime's device for the current GPU, found by the provider once its library is registered.

    Raises Unavailable with the reason where the library cannot be loaded or takes none of the GPUs.
    """
    if why := _registered():
        raise Unavailable(f"ONNX Runtime cannot load {PROVIDER}, which needs NVIDIA's driver: {why}")
    found = [one for one in onnxruntime.get_ep_devices() if one.ep_name == PROVIDER]
    if not found:
        raise Unavailable(f"{PROVIDER} takes no GPU of this machine: it needs compute capability 8.6, 8.9 or 12.0")
    same = [one for one in found if one.device.metadata.get("pci_bus_id", "").lower() == cuda.bus_id().lower()]
    if not same and len(found) > 1:
        raise Unavailable(
            f"{PROVIDER} does not say which of {len(found)} GPUs is which: set CUDA_VISIBLE_DEVICES to one"
        )
    return (same or found)[0]


def build(job: Job, options: Config) -> Built:
    """Have the provider write an ONNX model whose EPContext nodes hold its plans; that model is the engine."""
    with TemporaryDirectory() as folder:
        written, settings = Path(folder, CONTEXT), shared.session_options()
        settings.add_session_config_entry("ep.context_enable", "1")
        settings.add_session_config_entry("ep.context_embed_mode", "1")
        settings.add_session_config_entry("ep.context_file_path", str(written))
        fix_dimensions(settings, job.artifact, job.shape)
        _opener(job.artifact, lambda: settings, options)(Stream(), False)
        if not written.is_file():
            raise Failed("the TensorRT for RTX provider took no part of this model")
        data = written.read_bytes()
    return shared.with_plans(data, PROVIDER, job.precision, {})


def load(engine: Path, precision: Precision, shape: Shape, options: Config) -> shared.Session:
    """Load the engine; the GPU's kernels are compiled now and in the first runs, before anything is timed."""
    return shared.waiting(shared.Session(_opener(engine, shared.session_options, options), shape, options))


def profile(engine: Path, precision: Precision, shape: Shape, options: Config, batch: Feed, seconds: float) -> Profile:
    return shared.profiled(lambda settings: _opener(engine, lambda: settings, options), shape, options, batch, seconds)


def _opener(model: Path, settings: Callable[[], onnxruntime.SessionOptions], options: Config) -> shared.Opener:
    """Opens sessions on this provider, each with own options; ONNX Runtime's CPU provider takes what it leaves."""

    def opener(stream: Stream, graph: bool) -> onnxruntime.InferenceSession:
        chosen = {
            "has_user_compute_stream": "1",
            "user_compute_stream": str(stream.handle.value),
            "enable_cuda_graph": str(int(graph)),
            "nv_persistent_context_memory": "1",  # no allocation inside a timed call
        }
        if options.workspace_mb is not None:
            chosen["nv_max_workspace_size"] = str(options.workspace_mb << 20)
        own = settings()
        own.add_provider_for_devices([_device()], chosen)
        return create(model, own, ())

    return opener
