"""What ONNX Runtime's GPU backends share: sessions with inputs and outputs on the device, and pqbench's own stream.

The provider option `user_compute_stream` is set, and the synchronisation after a run is off. A run then only queues its
work, so that copies and computation are timed by events as on every other GPU backend.
"""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from pqbench.common.v1.common_pb2 import Precision
from pqbench_runtime import cuda, gpu
from pqbench_runtime.backend import ENGINE, UNKNOWN, Built, Call, GpuOptions, Profile, Shape, run_for
from pqbench_runtime.backends._onnxruntime import create, layers_of, profile_of
from pqbench_runtime.cuda import Stream, Tensor
from pqbench_runtime.device_call import WARM_UP, DeviceCall, as_graph
from pqbench_wire.errors import Failed, Unavailable
from pqbench_wire.shared.inputs import Feed, named

DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int8)": np.int8,
          "tensor(uint8)": np.uint8, "tensor(int16)": np.int16, "tensor(int32)": np.int32,
          "tensor(int64)": np.int64, "tensor(bool)": np.bool_}  # fmt: skip
ATTEMPT_SECONDS = 120
Opener = Callable[[Stream, bool], onnxruntime.InferenceSession]  # stream, whether to capture a CUDA graph -> session


_SCRIPT = """\
import onnxruntime

PROVIDERS = {providers}
if hasattr(onnxruntime, "preload_dlls"):
    onnxruntime.preload_dlls()  # CUDA's libraries from NVIDIA's wheels
SESSION = onnxruntime.InferenceSession(MODEL, providers=PROVIDERS)
if SESSION.get_providers()[0] != PROVIDERS[0]:
    sys.exit(f"ONNX Runtime cannot load {{PROVIDERS[0]}}: pip install onnxruntime-gpu, and the libraries it needs")

"""
RUN = """
def run(x):
    return SESSION.run(None, {SESSION.get_inputs()[0].name: x})[0].astype(np.float32)
"""


def scripts(*providers: str) -> dict[str, str]:
    """Code for predict.py that loads the engine on the first of `providers`; the others take what it leaves."""
    return {ENGINE: _SCRIPT.format(providers=[*providers, "CPUExecutionProvider"]).replace("'", '"') + RUN}


def device(provider: str) -> str:
    """The GPU's name. Raises Unavailable where this ONNX Runtime lacks the provider, or there is no GPU."""
    if provider not in onnxruntime.get_available_providers():
        raise Unavailable(f"this ONNX Runtime has no {provider}: pip install onnxruntime-gpu in place of onnxruntime")
    return gpu.device()


def session_options() -> onnxruntime.SessionOptions:
    """Session options with one intra-op thread, because the host only queues work."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    return settings


@functools.cache
def attempt(provider: str) -> None:
    """Open a session in a process of its own, with which the GPU's memory goes back.

    ONNX Runtime lists a provider also where its libraries are missing. Raises Unavailable with the one that is.
    """
    script = f"from {__name__} import open_smallest; open_smallest({provider!r})"
    try:
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=ATTEMPT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{provider} opened no session within {ATTEMPT_SECONDS} s") from error
    if done.returncode:
        missing = re.search(r"with error: (.*)", done.stderr)
        why = missing[1] if missing else done.stderr.strip().rpartition("\n")[2].partition(": ")[2]
        raise Unavailable(f"ONNX Runtime cannot load {provider}: {why or f'exit code {done.returncode}'}")


def open_smallest(provider: str) -> None:
    """A session of one node on a provider."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "smallest", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    opened(model.SerializeToString(), session_options(), [(provider, {}), "CPUExecutionProvider"])


def opened(
    model: Path | bytes, settings: onnxruntime.SessionOptions, providers: Sequence[Any]
) -> onnxruntime.InferenceSession:
    """A session on the first of `providers`. Raises Failed where that provider cannot be loaded.

    ONNX Runtime by itself would fall back to the CPU with a warning, and does not look into NVIDIA's wheels.
    """
    if hasattr(onnxruntime, "preload_dlls"):  # from 1.21 on
        onnxruntime.preload_dlls()
    session = create(model, settings, providers)
    wanted = providers[0][0]
    if session.get_providers()[0] != wanted:
        raise Failed(f"ONNX Runtime cannot load {wanted}: a library that it needs is missing or of another version")
    return session


class Session:
    """A loaded model with its buffers on the device, run as a CUDA graph if that is on and possible."""

    def __init__(self, opener: Opener, shape: Shape, options: GpuOptions) -> None:
        self._stream, self._options, self._shape = Stream(), options, shape

        def start(graph: bool) -> None:
            self._start(opener(self._stream, graph))

        _, self.settings = as_graph(options.cuda_graph, lambda: start(True), lambda: start(False))

    def _start(self, session: onnxruntime.InferenceSession) -> None:
        """Bind the buffers and run WARM_UP times, in which ONNX Runtime captures the graph if it is to."""
        self._session = session
        self.inputs = [one.name for one in session.get_inputs()]
        self.outputs = [one.name for one in session.get_outputs()]
        self._binding, self._run_options = session.io_binding(), onnxruntime.RunOptions()
        self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        shapes = self._shape.inputs(self.inputs)
        types = {one.name: np.dtype(DTYPES[one.type]) for one in (*session.get_inputs(), *session.get_outputs())}
        self._inputs = {name: Tensor(shapes[name], types[name]) for name in self.inputs}
        for name, tensor in self._inputs.items():
            self._binding.bind_input(*_place(name, tensor, types[name]))
        self._outputs = {name: Tensor(axes, types[name]) for name, axes in self._output_shapes().items()}
        for name, tensor in self._outputs.items():
            self._binding.bind_output(*_place(name, tensor, types[name]))
        try:
            for _ in range(WARM_UP):
                self._enqueue()
            self._stream.synchronize()
        except RuntimeError as error:
            raise Failed(f"ONNX Runtime cannot run this engine: {error}") from error

    def bind(self, batch: Feed) -> Call:
        """The timed call for one batch, which is copied into pinned memory now."""
        for name, array in named(batch, self.inputs).items():
            np.copyto(self._inputs[name].host, array)
        outputs, options = [tensor.host for tensor in self._outputs.values()], self._options
        upload = functools.partial(_each, self._inputs.values(), "upload", self._stream)
        download = functools.partial(_each, self._outputs.values(), "download", self._stream)
        return DeviceCall(self._stream, upload, self._enqueue, download, outputs, options.transfers, options.spin)

    def profile(self, batch: Feed, seconds: float) -> Profile:
        """Run under the profiler that the session was opened with; times are the host's, to launch the layers."""
        call = self.bind(batch)
        run_for(seconds / 4, call)
        return profile_of(self._session, run_for(seconds, call), launches=True)

    def _enqueue(self) -> None:
        self._session.run_with_iobinding(self._binding, self._run_options)

    def _output_shapes(self) -> dict[str, tuple[int, ...]]:
        """The outputs' shapes, as the graph declares them or, where an axis is not fixed, as a run gives them."""
        declared = {one.name: tuple(one.shape) for one in self._session.get_outputs()}
        if all(isinstance(size, int) for axes in declared.values() for size in axes):
            return declared
        zeros = named(self._shape.zeros(), self.inputs)
        return {n: a.shape for n, a in zip(self.outputs, self._session.run(None, zeros), strict=True)}


def with_plans(model: bytes, provider: str, precision: Precision, settings: Mapping[str, str]) -> Built:
    """A model whose EPContext nodes hold a provider's plans as an engine; `settings`: what else to record of its build.

    The provider does not report what the layers inside run in: the precision of these nodes is "unknown".
    """
    nodes = layers_of(onnx.load_from_string(model))
    layers = [replace(one, precision=UNKNOWN, compute=True) if one.type == "EPContext" else one for one in nodes]
    beside = ", ".join(sorted({one.type for one in layers if one.type != "EPContext"})) or "no node"
    recorded = {
        "execution_provider": provider,
        "beside_tensorrt": beside,
        "inference_precision": Precision.Name(precision).removeprefix("PRECISION_"),
    }
    return Built(data=model, layers=layers, settings=recorded | dict(settings))


def waiting(session: Session) -> Session:
    """The session, whose settings say that a captured graph is waited for inside the call."""
    if session.settings["cuda_graph"] == "captured":
        session.settings["cuda_graph"] = "captured; compute includes ONNX Runtime's wait for it"
    return session


def profiled(
    opener: Callable[[onnxruntime.SessionOptions], Opener],
    shape: Shape,
    options: GpuOptions,
    batch: Feed,
    seconds: float,
) -> Profile:
    """Open a session under ONNX Runtime's profiler, without a CUDA graph, and run it."""
    with TemporaryDirectory() as folder:
        settings = session_options()
        settings.enable_profiling, settings.profile_file_prefix = True, str(Path(folder, "profile"))
        return Session(opener(settings), shape, replace(options, cuda_graph=False)).profile(batch, seconds)


def _place(name: str, tensor: Tensor, dtype: np.dtype[Any]) -> tuple[Any, ...]:
    """The arguments of ONNX Runtime's bind_input and bind_output for a tensor on the device."""
    return name, "cuda", cuda.current_device(), dtype, tensor.host.shape, tensor.device.value


def _each(tensors: Any, method: str, stream: Stream) -> None:
    for tensor in tensors:
        getattr(tensor, method)(stream)
