"""A stand-in for ONNX Runtime's GPU build on a machine without one, for tests.

It has the GPU providers' names and takes their options, no others; it computes with the CPU provider, on the
"device" memory of the stand-in for CUDA. An EPContext holds the ONNX that the "plan" was built from.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

_HERE = str(Path(__file__).parent)
_PATH = list(sys.path)
sys.path[:] = [entry for entry in sys.path if str(Path(entry or ".").resolve()) != _HERE]
del sys.modules["onnxruntime"]
_real = importlib.import_module("onnxruntime")
sys.path[:] = _PATH
_CPU = "CPUExecutionProvider"
_OPTIONS = {
    "CUDAExecutionProvider": {"device_id", "user_compute_stream", "use_tf32", "enable_cuda_graph"},
    "TensorrtExecutionProvider": {
        "device_id", "user_compute_stream", "trt_fp16_enable", "trt_bf16_enable", "trt_int8_enable",
        "trt_int8_calibration_table_name", "trt_engine_cache_path", "trt_timing_cache_enable", "trt_timing_cache_path",
        "trt_builder_optimization_level", "trt_sparsity_enable", "trt_cuda_graph_enable", "trt_dump_ep_context_model",
        "trt_ep_context_embed_mode", "trt_ep_context_file_path",
    },
    "NvTensorRTRTXExecutionProvider": {
        "has_user_compute_stream", "user_compute_stream", "enable_cuda_graph", "nv_persistent_context_memory",
        "nv_max_workspace_size",
    },
}  # fmt: skip
_MISSING = os.environ.get("EMULATED_WITHOUT_LIBRARIES")


_LISTED = ("CUDAExecutionProvider", "TensorrtExecutionProvider")
_preloaded: list[bool] = []
_registered: dict[str, str] = {}  # name of a plug-in provider -> its library


class SessionOptions(_real.SessionOptions):
    """Session options that remember the plug-in provider that they were given, and what they say of contexts."""

    def __init__(self) -> None:
        super().__init__()
        self.providers: list[tuple[str, dict[str, str]]] = []
        self.context: dict[str, str] = {}

    def add_session_config_entry(self, key: str, value: str) -> None:
        if key.startswith("ep.context_"):
            self.context[key] = value
        else:
            super().add_session_config_entry(key, value)

    def add_provider_for_devices(self, devices: list[Any], options: dict[str, str]) -> None:
        assert not self.providers, "a session has one provider for these devices"
        self.providers = [(devices[0].ep_name, dict(options))]


def preload_dlls() -> None:
    _preloaded.append(True)


def register_execution_provider_library(name: str, library: str) -> None:
    if _MISSING:
        raise RuntimeError("libcuda.so.1: cannot open shared object file: No such file or directory")
    _registered[name] = library


def get_ep_devices() -> list[Any]:
    """Two GPUs, told apart by their PCI bus ids; the stand-in for CUDA has the second one."""
    places = os.environ.get("EMULATED_GPUS", "0000:02:00.0 0000:0f:00.0").split()
    hardware = [SimpleNamespace(metadata={"pci_bus_id": place} if ":" in place else {}) for place in places]
    return [SimpleNamespace(ep_name=name, device=one) for name in _registered for one in hardware]


def _embedded(model: bytes) -> bytes:
    """The ONNX in an EPContext; what is none is itself."""
    proto = onnx.load_from_string(model)
    node = proto.graph.node[0]
    return node.attribute[0].s if node.op_type == "EPContext" else model


def _runnable(model: bytes) -> bytes:
    """The ONNX with BF16, for which the CPU has no kernels, widened to FP32."""
    proto = onnx.load_from_string(model)
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.BFLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    attributes = [one for node in proto.graph.node for one in node.attribute]
    for cast in (one for one in attributes if one.name == "to" and one.i == onnx.TensorProto.BFLOAT16):
        cast.i = onnx.TensorProto.FLOAT
    del proto.graph.value_info[:]
    return proto.SerializeToString()


def _write_context(model: bytes, embedded: str, path: str) -> None:
    proto = onnx.load_from_string(model)
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = [one for one in proto.graph.input if one.name not in constants]
    names = [one.name for one in inputs], [one.name for one in proto.graph.output]
    assert embedded == "1"
    node = helper.make_node("EPContext", *names, name="plan", domain="com.microsoft", ep_cache_context=model)
    graph = helper.make_graph([node], "context", inputs, list(proto.graph.output))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    Path(path).write_bytes(helper.make_model(graph, opset_imports=opsets).SerializeToString())


def _check_table(model: bytes, options: dict[str, str]) -> None:
    """INT8 needs Q/DQ nodes, or a positive range for every input and output of a product."""
    graph = onnx.load_from_string(model).graph
    if any(node.op_type == "QuantizeLinear" for node in graph.node) or graph.node[0].op_type == "EPContext":
        return
    from onnxruntime.quantization.CalTableFlatBuffers.TrtTable import TrtTable

    if Path(options["trt_engine_cache_path"]).is_absolute():
        raise RuntimeError("the trt_engine_cache_path should be set with a relative path")
    path = Path(options["trt_engine_cache_path"], options["trt_int8_calibration_table_name"])
    table = TrtTable.GetRootAsTrtTable(path.read_bytes(), 0)
    entries = [table.Dict(index) for index in range(table.DictLength())]
    ranges = {entry.Key().decode(): float(entry.Value()) for entry in entries}
    if problems := [name for name, value in ranges.items() if value < 0]:
        raise RuntimeError(f"dynamic ranges below zero: {problems}")
    products = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    if missing := [node.input[0] for node in products if node.input[0] not in ranges]:
        raise RuntimeError(f"no dynamic range of {missing}")


class _Binding:
    def __init__(self, real: Any) -> None:
        self.real = real

    def bind_input(self, name: str, device: str, *rest: Any) -> None:
        assert device == "cuda"
        self.real.bind_input(name, "cpu", *rest)

    def bind_output(self, name: str, device: str, *rest: Any) -> None:
        assert device == "cuda"
        self.real.bind_output(name, "cpu", *rest)


def _is_loaded(provider: str) -> bool:
    """Whether a provider's libraries are found; TensorRT's raises where they are not, CUDA's writes to the log."""
    if provider not in _LISTED or (_preloaded and not _MISSING):
        return True
    missing = "libcublasLt.so.13: cannot open shared object file: No such file or directory"
    print(f"Failed to load library libonnxruntime_providers.so with error: {missing}", file=sys.stderr)
    if provider == "TensorrtExecutionProvider":
        raise RuntimeError("Please install TensorRT libraries as mentioned in the GPU requirements page")
    return False


class InferenceSession(_real.InferenceSession):
    """On the CPU, whatever the provider's name."""

    def __init__(self, model: Any, sess_options: Any = None, providers: Any = None, enable_fallback: int = 1) -> None:
        given = providers or getattr(sess_options, "providers", None) or [_CPU]
        named = [(one, {}) if isinstance(one, str) else one for one in given]
        for name, options in named:
            if unknown := set(options) - _OPTIONS.get(name, set()):
                raise RuntimeError(f"{name} knows no option {sorted(unknown)}")
        name, options = named[0]
        if os.environ.get("EMULATED_BROKEN") and name != _CPU and options:
            raise ZeroDivisionError("an error that nobody expects")
        data = model if isinstance(model, bytes) else Path(model).read_bytes()
        graph = "1" in (options.get("enable_cuda_graph"), options.get("trt_cuda_graph_enable"))
        if graph and os.environ.get("EMULATED_NO_CAPTURE"):
            raise RuntimeError("operation not permitted when stream is capturing")
        if name == "TensorrtExecutionProvider" and options.get("trt_int8_enable") == "1":
            _check_table(data, options)
        if options.get("trt_dump_ep_context_model") == "1":
            _write_context(data, options["trt_ep_context_embed_mode"], options["trt_ep_context_file_path"])
        context = getattr(sess_options, "context", {})
        if context.get("ep.context_enable") == "1" and name in _registered:
            _write_context(data, context["ep.context_embed_mode"], context["ep.context_file_path"])
        super().__init__(_runnable(_embedded(data)) if name != _CPU else data, sess_options, providers=[_CPU])
        if name == "CUDAExecutionProvider" and sess_options and sess_options.optimized_model_filepath:
            Path(sess_options.optimized_model_filepath).write_bytes(data)  # the CPU provider would widen FP16
        self._named = [one for one, _ in named if _is_loaded(one)]

    def get_providers(self) -> list[str]:
        return self._named

    def io_binding(self) -> _Binding:
        return _Binding(super().io_binding())

    def run_with_iobinding(self, binding: _Binding, options: Any = None) -> None:
        super().run_with_iobinding(binding.real, options)


_real.InferenceSession = InferenceSession
_real.SessionOptions = SessionOptions
_real.register_execution_provider_library = register_execution_provider_library
_real.get_ep_devices = get_ep_devices
_real.preload_dlls = preload_dlls
_real.get_available_providers = lambda: [*_LISTED, _CPU]
