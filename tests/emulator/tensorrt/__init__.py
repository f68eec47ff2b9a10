"""A stand-in for TensorRT on a machine without a GPU, for tests.

Which version is EMULATED_TENSORRT; it has exactly the names that this version's bindings have (../api, read
out of the real ones). It parses ONNX, rejects what TensorRT is documented to reject, "builds" a plan and
computes with ONNX Runtime. It proves that the backend speaks each version's API; it says nothing of speed.
"""

from __future__ import annotations

import ctypes
import enum
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, numpy_helper

__version__ = os.environ.get("EMULATED_TENSORRT", "10.16.1.11")
_API = json.loads((Path(__file__).parents[1] / "api" / f"{__version__}.json").read_text())
_MAJOR = int(__version__.partition(".")[0])
_MAGIC = b"emulated plan"
_CUDART = ctypes.CDLL(str(Path(os.environ["LD_LIBRARY_PATH"].partition(":")[0], "libcudart.so.13")))
_WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_CUDART.emulator_enqueue.argtypes = (ctypes.c_void_p, _WORK, ctypes.c_void_p)
_COMPUTE = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class _Enum(enum.Enum):
    def __int__(self) -> int:
        return int(self.value)


def _make_enums() -> None:
    for name, members in _API["enums"].items():
        if "." not in name:
            globals()[name] = _Enum(name, members)


_make_enums()


class _Restricted:
    """Has the methods, and takes the attributes, that the version's class has; no others."""

    def __init_subclass__(cls) -> None:
        cls._allowed = set(_API["classes"].get(cls.__name__, ()))
        for name in [n for n in vars(cls) if not n.startswith("_") and n not in cls._allowed]:
            delattr(cls, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name not in self._allowed:
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        super().__setattr__(name, value)


class ILogger:
    """To be derived from."""

    Severity = _Enum(
        "Severity",
        _API["enums"].get("ILogger.Severity")
        or {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2, "INFO": 3, "VERBOSE": 4},
    )

    def __init__(self) -> None: ...


class Logger(ILogger):
    """Prints nothing."""


def nptype(kind: Any) -> type[np.generic]:
    """NumPy's type of a DataType."""
    return {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "INT64": np.int64}[kind.name]


class IProgressMonitor:
    """To be derived from."""

    def __init__(self) -> None: ...


class IProfiler:
    """To be derived from."""

    def __init__(self) -> None: ...


class _Calibrator:
    def __init__(self) -> None: ...


class IInt8EntropyCalibrator2(_Calibrator):
    """To be derived from."""


class IInt8MinMaxCalibrator(_Calibrator):
    """To be derived from."""


class IHostMemory(bytes):
    """Bytes of the library's."""

    @property
    def nbytes(self) -> int:
        return len(self)


class ITimingCache(_Restricted):
    """Bytes that builds add to."""

    def __init__(self, data: bytes) -> None:
        self._data = bytes(data)

    def serialize(self) -> IHostMemory:
        return IHostMemory(self._data)

    def combine(self, input_cache: ITimingCache, ignore_mismatch: bool) -> bool:
        self._data = self._data if input_cache._data in self._data else self._data + input_cache._data
        return True


class IOptimizationProfile(_Restricted):
    """Shapes by input."""

    def __init__(self) -> None:
        self._shapes: dict[str, tuple[Any, Any, Any]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = (tuple(min), tuple(opt), tuple(max))


class IBuilderConfig(_Restricted):
    """Flags and the like."""

    def __init__(self) -> None:
        self._flags = {"TF32"}
        self._profiles: list[IOptimizationProfile] = []
        self._cache: ITimingCache | None = None
        self.builder_optimization_level, self.avg_timing_iterations = 3, 1
        self._monitor = self._calibrator = None

    def set_flag(self, flag: Any) -> None:
        self._flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(flag.name)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._pool = pool_size

    def get_memory_pool_limit(self, pool: Any) -> int:
        return getattr(self, "_pool", 80 << 30)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def set_calibration_profile(self, profile: IOptimizationProfile) -> bool:
        return True

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache


def init_libnvinfer_plugins(logger: ILogger, namespace: str) -> bool:
    """Nothing to register."""
    return True


class _Tensor:
    def __init__(self, name: str) -> None:
        self.name = name


class INetworkDefinition(_Restricted):
    """What the parser fills."""

    def __init__(self, strong: bool) -> None:
        self._strong, self._model = strong, onnx.ModelProto()

    @property
    def num_inputs(self) -> int:
        return len(self._model.graph.input)

    def get_input(self, index: int) -> _Tensor:
        return _Tensor(self._model.graph.input[index].name)


class ParserError(_Restricted):
    """One problem."""

    def __init__(self, code: str, desc: str, node: int = -1, name: str = "") -> None:
        self._code, self._desc, self._node, self._name = code, desc, node, name

    def code(self) -> Any:
        return ErrorCode[self._code]

    def desc(self) -> str:
        return self._desc

    def node(self) -> int:
        return self._node

    def node_name(self) -> str:
        return self._name


class OnnxParser(_Restricted):
    """Rejects what TensorRT is documented to reject."""

    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._errors = network, []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse(self, model: bytes) -> bool:
        try:
            proto = onnx.load_from_string(model)
            onnx.checker.check_model(proto)
        except Exception as error:
            self._errors.append(ParserError("MODEL_DESERIALIZE_FAILED", f"Failed to parse ONNX model: {error}"))
            return False
        self._network._model = proto
        self._errors += list(_problems(proto))
        return not self._errors


def _problems(proto: onnx.ModelProto) -> Any:
    constants = {i.name: i for i in proto.graph.initializer}
    if _MAJOR < 10 and any(i.data_type == TensorProto.BFLOAT16 for i in constants.values()):
        yield ParserError("UNSUPPORTED_GRAPH", "BF16 is not known")
    for index, node in enumerate(proto.graph.node):
        if node.domain not in ("", "ai.onnx"):
            yield ParserError(
                "UNSUPPORTED_NODE", f"no importer registered for {node.domain}::{node.op_type}", index, node.name
            )
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and (text := _quantization_problem(node, constants)):
            yield ParserError("INVALID_NODE", text, index, node.name)


def _quantization_problem(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> str:
    """Why NVIDIA's parser refuses a node. What it takes here, TensorRT for RTX took: no zero-point, UINT8 with 0."""
    if len(node.input) > 2:
        zero = constants[node.input[2]]
        if zero.data_type not in (TensorProto.INT8, TensorProto.UINT8, TensorProto.FLOAT8E4M3FN, TensorProto.INT4):
            return f"zero-point of type {TensorProto.DataType.Name(zero.data_type)} is not supported"
        if numpy_helper.to_array(zero).astype(np.float32).any():
            return "Non-zero zero point is not supported"
    scale = numpy_helper.to_array(constants[node.input[1]])
    return "scales must be positive" if (scale <= 0).any() else ""


class Builder(_Restricted):
    """Makes plans."""

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        names = {name for name, number in _API["enums"]["NetworkDefinitionCreationFlag"].items() if flags >> number & 1}
        if _MAJOR < 10 and "EXPLICIT_BATCH" not in names:
            raise RuntimeError("implicit batch networks cannot be filled from ONNX")
        return INetworkDefinition(strong="STRONGLY_TYPED" in names or _MAJOR > 10)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        try:
            layers = _layers(network, config)
        except ValueError as error:
            self._logger.log(ILogger.Severity.ERROR, f"[builder.cpp] Error Code 4: {error}")
            return None
        monitor = getattr(config, "progress_monitor", None)
        if monitor:
            monitor.phase_start("Building Engine", None, len(layers))
            for index in range(len(layers)):
                if not monitor.step_complete("Building Engine", index):
                    return None
            monitor.phase_finish("Building Engine")
        if config._cache is not None:
            config._cache.combine(ITimingCache(f"{len(layers)} timings;".encode()), False)
        header = json.dumps({"version": __version__, "layers": layers, "profile": config._profiles[0]._shapes}).encode()
        return IHostMemory(_MAGIC + len(header).to_bytes(8, "little") + header + network._model.SerializeToString())


def _layers(network: INetworkDefinition, config: IBuilderConfig) -> list[dict[str, Any]]:
    """The layers as the inspector will tell them. Raises ValueError for what the builder rejects."""
    graph, flags = network._model.graph, config._flags
    precisions = flags & {"FP16", "BF16", "INT8", "FP8", "INT4"}
    if network._strong and precisions:
        raise ValueError(f"precision flags {sorted(precisions)} in a strongly typed network")
    made = {name: node for node in graph.node for name in node.output}
    types = {i.name: i.data_type for i in graph.initializer}
    has_qdq = any(node.op_type == "QuantizeLinear" for node in graph.node)
    if has_qdq and not network._strong and "INT8" not in flags:
        raise ValueError("Q/DQ layers need the INT8 flag")
    calibrator = getattr(config, "int8_calibrator", None)
    if "INT8" in flags and not has_qdq:
        if calibrator is None:
            raise ValueError("INT8 without Q/DQ needs a calibrator")
        _calibrate(calibrator, graph, config._profiles[0]._shapes)
    products = [node for node in graph.node if node.op_type in _COMPUTE]
    if os.environ.get("EMULATED_FALLBACK"):  # a test wants a version that runs the first product wider
        first, *rest = products
        others = [_layer(n, _precision(n, made, types, network._strong, flags, calibrator is not None)) for n in rest]
        return [_layer(first, "FP32"), *others]
    return [
        _layer(node, _precision(node, made, types, network._strong, flags, calibrator is not None)) for node in products
    ]


def _calibrate(calibrator: Any, graph: onnx.GraphProto, shapes: dict[str, Any]) -> None:
    names, count, size = [one.name for one in graph.input], 0, calibrator.get_batch_size()
    calibrator.read_calibration_cache()
    while pointers := calibrator.get_batch(names):
        for name, pointer in zip(names, pointers, strict=True):
            shape = shapes[name][1]
            values = np.frombuffer((ctypes.c_byte * (4 * int(np.prod(shape)))).from_address(pointer), np.float32)
            if not np.isfinite(values).all() or shape[0] != size or not values.any():
                raise ValueError("calibration data are not real")
        count += 1
    if not count:
        raise ValueError("calibration had no batch")
    calibrator.write_calibration_cache(b"ranges")


def _precision(
    node: onnx.NodeProto, made: dict[str, Any], types: dict[str, int], strong: bool, flags: set[str], calibrated: bool
) -> str:
    sources = [made.get(name) for name in node.input[:2]]
    quantized = [s for s in sources if s is not None and s.op_type == "DequantizeLinear"]
    if quantized:
        kind = types.get(quantized[-1].input[2]) if len(quantized[-1].input) > 2 else TensorProto.INT4
        return {TensorProto.INT8: "INT8", TensorProto.FLOAT8E4M3FN: "FP8"}.get(kind, "INT4")
    if calibrated:
        return "INT8"
    if strong:
        kind = next((types[name] for name in node.input[1:] if name in types), TensorProto.FLOAT)
        wide = "TF32" if "TF32" in flags else "FP32"
        return {TensorProto.FLOAT16: "FP16", TensorProto.BFLOAT16: "BF16"}.get(kind, wide)
    return next((name for name in ("FP16", "BF16", "TF32") if name in flags), "FP32")


_KERNELS = {"INT8": "i8i8_i8i32_f32", "FP8": "e4m3e4m3_e4m3f32", "INT4": "w4a16_f16", "FP16": "f16f16_f16f16_f16",
            "BF16": "bf16bf16_bf16f32", "TF32": "tf32tf32_tf32f32", "FP32": "f32f32_f32f32"}  # fmt: skip
_STORED = {"INT8": "Int8", "FP8": "FP8", "FP16": "FP16", "INT4": "FP16", "BF16": "BF16"}


def _layer(node: onnx.NodeProto, precision: str) -> dict[str, Any]:
    kind, stored = (
        "Convolution" if node.op_type.startswith("Conv") else "MatrixMultiply",
        _STORED.get(precision, "FP32"),
    )
    if _MAJOR > 10:
        tensor = {"Datatype": {"FP16": "Half", "FP32": "Float"}.get(stored, stored), "Format": "Row major linear"}
    else:
        tensor = {"Format/Datatype": f"Row major linear {stored} format"}
    return {
        "Name": node.name + (" [profile 0]" if _MAJOR < 10 else ""), "LayerType": f"Cask{kind}", "ParameterType": kind,
        "Inputs": [{"Name": node.input[0], **tensor}], "Outputs": [{"Name": node.output[0], **tensor}],
        "TacticName": f"sm90_xmma_fprop_implicit_gemm_{_KERNELS[precision]}_nhwckrsc_nhwc_tilesize128x64x64",
    }  # fmt: skip


class Runtime(_Restricted):
    """Loads plans of its own version."""

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> ICudaEngine | None:
        start = len(_MAGIC) + 8
        size = int.from_bytes(plan[len(_MAGIC) : start], "little")
        header = json.loads(plan[start : start + size]) if plan.startswith(_MAGIC) else {"version": "none"}
        if header["version"] != __version__:
            self._logger.log(
                ILogger.Severity.ERROR, f"the plan is of version {header['version']}, this is {__version__}"
            )
            return None
        return ICudaEngine(header, plan[start + size :])


class ICudaEngine(_Restricted):
    """A plan in memory."""

    def __init__(self, header: dict[str, Any], model: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self._header = header
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._inputs = {i.name: i for i in self._session.get_inputs()}
        self._ports = [*self._session.get_inputs(), *self._session.get_outputs()]

    @property
    def num_io_tensors(self) -> int:
        return len(self._ports)

    def get_tensor_name(self, index: int) -> str:
        return self._ports[index].name

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        kind = next(p.type for p in self._ports if p.name == name)
        return DataType[
            {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(int64)": "INT64", "tensor(int32)": "INT32"}[
                kind
            ]
        ]

    def create_execution_context(self) -> IExecutionContext:
        return IExecutionContext(self)

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self)


class EngineInspector(_Restricted):
    """Tells the layers."""

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine

    def get_engine_information(self, format: Any) -> str:
        assert format.name == "JSON"
        return json.dumps({"Layers": self._engine._header["layers"], "I/O Tensors" if _MAJOR > 10 else "Bindings": []})


class IExecutionContext(_Restricted):
    """Runs a plan on a stream."""

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._work = _WORK(self._run)  # kept: captured graphs call it

    def set_input_shape(self, name: str, shape: Any) -> bool:
        least, _, most = self._engine._header["profile"][name]
        self._shapes[name] = tuple(shape)
        return all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True))

    def infer_shapes(self) -> list[str]:
        feeds = {n: np.zeros(self._shapes[n], _numpy(one.type)) for n, one in self._engine._inputs.items()}
        outputs = self._engine._session.run(None, feeds)
        for port, array in zip(self._engine._session.get_outputs(), outputs, strict=True):
            self._shapes[port.name] = array.shape
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return bool(memory)

    def execute_async_v3(self, stream_handle: int) -> bool:
        return _CUDART.emulator_enqueue(stream_handle, self._work, None) == 0

    def _run(self, _: Any) -> None:
        if profiler := getattr(self, "profiler", None):
            for layer in self._engine._header["layers"]:
                profiler.report_layer_time(layer["Name"].partition(" [profile")[0], 0.25)
            profiler.report_layer_time("Reformatting CopyNode for Input Tensor 0", 0.125)
        session = self._engine._session
        feeds = {i.name: self._memory(i).copy() for i in session.get_inputs()}
        for port, array in zip(session.get_outputs(), session.run(None, feeds), strict=True):
            self._memory(port)[...] = array

    def _memory(self, port: Any) -> np.ndarray:
        shape, dtype = self._shapes[port.name], np.dtype(_numpy(port.type))
        size = int(np.prod(shape)) * dtype.itemsize
        return np.frombuffer((ctypes.c_byte * size).from_address(self._addresses[port.name]), dtype).reshape(shape)


def _numpy(kind: str) -> Any:
    return {
        "tensor(float)": np.float32,
        "tensor(float16)": np.float16,
        "tensor(int64)": np.int64,
        "tensor(int32)": np.int32,
    }[kind]


for _name in [
    n for n, v in list(globals().items()) if isinstance(v, type) and v.__module__ == __name__ and n[0] != "_"
]:
    if _name not in _API["classes"] and _name not in _API["enums"]:
        del globals()[_name]
