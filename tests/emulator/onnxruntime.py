"""A stand-in for ONNX Runtime's GPU build on a machine without one, for tests.

It has the GPU providers' names and takes their options, no others; it computes with the CPU provider, on the
"device" memory of the stand-in for CUDA. An EPContext holds the ONNX that the "plan" was built from.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

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
}  # fmt: skip
_MISSING = os.environ.get("EMULATED_WITHOUT_LIBRARIES")


def _embedded(model: bytes) -> bytes:
    """The ONNX in an EPContext; what is none is itself."""
    proto = onnx.load_from_string(model)
    node = proto.graph.node[0]
    return node.attribute[0].s if node.op_type == "EPContext" else model


def _write_context(model: bytes, options: dict[str, str]) -> None:
    proto = onnx.load_from_string(model)
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = [one for one in proto.graph.input if one.name not in constants]
    names = [one.name for one in inputs], [one.name for one in proto.graph.output]
    assert options["trt_ep_context_embed_mode"] == "1"
    node = helper.make_node("EPContext", *names, name="plan", domain="com.microsoft", ep_cache_context=model)
    graph = helper.make_graph([node], "context", inputs, list(proto.graph.output))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    Path(options["trt_ep_context_file_path"]).write_bytes(
        helper.make_model(graph, opset_imports=opsets).SerializeToString()
    )


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


class InferenceSession(_real.InferenceSession):
    """On the CPU, whatever the provider's name."""

    def __init__(self, model: Any, sess_options: Any = None, providers: Any = None) -> None:
        named = [(one, {}) if isinstance(one, str) else one for one in providers or [_CPU]]
        for name, options in named:
            if unknown := set(options) - _OPTIONS.get(name, set()):
                raise RuntimeError(f"{name} knows no option {sorted(unknown)}")
        name, options = named[0]
        data = model if isinstance(model, bytes) else Path(model).read_bytes()
        graph = "1" in (options.get("enable_cuda_graph"), options.get("trt_cuda_graph_enable"))
        if graph and os.environ.get("EMULATED_NO_CAPTURE"):
            raise RuntimeError("operation not permitted when stream is capturing")
        if name == "TensorrtExecutionProvider" and options.get("trt_int8_enable") == "1":
            _check_table(data, options)
        if options.get("trt_dump_ep_context_model") == "1":
            _write_context(data, options)
        super().__init__(_embedded(data) if name != _CPU else data, sess_options, providers=[_CPU])
        if name == "CUDAExecutionProvider" and sess_options.optimized_model_filepath:
            Path(sess_options.optimized_model_filepath).write_bytes(data)  # the CPU provider would widen FP16
        self._named = [_CPU] if _MISSING else [one for one, _ in named]

    def get_providers(self) -> list[str]:
        return self._named

    def io_binding(self) -> _Binding:
        return _Binding(super().io_binding())

    def run_with_iobinding(self, binding: _Binding, options: Any = None) -> None:
        super().run_with_iobinding(binding.real, options)


_real.InferenceSession = InferenceSession
_real.get_available_providers = lambda: [*_OPTIONS, _CPU]
