"""The Open Inference Protocol, version 2, over the engines that this runtime has built.

A translation only: an inference runs in the session worker, one at a time, and waits while something is measured.
Times told here include the way to the worker; figures of record come from Measure.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from pqbench.inference import open_inference_pb2 as pb
from pqbench.inference import open_inference_pb2_grpc
from pqbench.runtime.v1.runtime_pb2 import Engine
from pqbench.runtime.v1.worker_pb2 import InferRequest, InferResult, Tensor
from pqbench_runtime.engines import Engines
from pqbench_wire.errors import InvalidInput, NotFound
from pqbench_wire.process import source_version

VERSION = "1"  # an engine never changes: another one has another name
MAX_MESSAGE = 64 << 20  # bytes: a batch of 100 images of 224 x 224


@dataclass(frozen=True)
class Type:
    """What the protocol calls a NumPy type; `contents`: the field of its values, "" where they travel as bytes only."""

    name: str
    number: pb.DataType
    contents: str


TYPES: dict[str, Type] = {
    "bool": Type("BOOL", pb.TYPE_BOOL, "bool_contents"),
    "uint8": Type("UINT8", pb.TYPE_UINT8, "uint_contents"),
    "uint16": Type("UINT16", pb.TYPE_UINT16, "uint_contents"),
    "uint32": Type("UINT32", pb.TYPE_UINT32, "uint_contents"),
    "uint64": Type("UINT64", pb.TYPE_UINT64, "uint64_contents"),
    "int8": Type("INT8", pb.TYPE_INT8, "int_contents"),
    "int16": Type("INT16", pb.TYPE_INT16, "int_contents"),
    "int32": Type("INT32", pb.TYPE_INT32, "int_contents"),
    "int64": Type("INT64", pb.TYPE_INT64, "int64_contents"),
    "float16": Type("FP16", pb.TYPE_FP16, ""),
    "float32": Type("FP32", pb.TYPE_FP32, "fp32_contents"),
    "float64": Type("FP64", pb.TYPE_FP64, "fp64_contents"),
}


class InferenceServicer(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers for `engines`; `infer` runs one batch."""

    def __init__(self, engines: Engines, infer: Callable[[InferRequest, grpc.ServicerContext], InferResult]) -> None:
        self._engines, self._infer = engines, infer
        self._described: dict[str, InferResult] = {}
        self._statistics: dict[str, pb.ModelStatistics] = {}
        self._lock = threading.Lock()

    def ServerLive(self, request: pb.ServerLiveRequest, context: grpc.ServicerContext) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, request: pb.ServerReadyRequest, context: grpc.ServicerContext) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=True)

    def ModelReady(self, request: pb.ModelReadyRequest, context: grpc.ServicerContext) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=request.name in self._engines.names() and request.version in ("", VERSION))

    def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ServerMetadataResponse:
        extensions = ["model_configuration", "statistics", "model_repository"]
        return pb.ServerMetadataResponse(
            name="pqbench-runtime", version=source_version("pqbench_runtime"), extensions=extensions
        )

    def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ModelMetadataResponse:
        engine = self._engine(request.name, request.version)
        described = self._describe(request.name, engine, context)
        return pb.ModelMetadataResponse(
            name=request.name,
            versions=[VERSION],
            platform=f"pqbench_{engine.backend}",
            inputs=[_metadata(tensor) for tensor in described.inputs],
            outputs=[_metadata(tensor) for tensor in described.outputs],
        )

    def ModelConfig(self, request: pb.ModelConfigRequest, context: grpc.ServicerContext) -> pb.ModelConfigResponse:
        engine = self._engine(request.name, request.version)
        described = self._describe(request.name, engine, context)
        config = pb.ModelConfig(
            name=request.name,
            platform=f"pqbench_{engine.backend}",
            backend=engine.backend,
            max_batch_size=engine.batch_size,
            input=[pb.ModelInput(**_config(tensor)) for tensor in described.inputs],
            output=[pb.ModelOutput(**_config(tensor)) for tensor in described.outputs],
            parameters={
                "options": pb.ModelParameter(string_value=engine.options_json),
                "built_on": pb.ModelParameter(string_value=engine.built_on),
            },
        )
        return pb.ModelConfigResponse(config=config)

    def ModelInfer(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        begin = time.monotonic_ns()
        engine = self._engine(request.model_name, request.model_version)
        try:
            described = self._describe(request.model_name, engine, context)
            arrays = _arrays(request, described.inputs, engine.batch_size)
            wanted = _wanted(request, described.outputs)
            rows = len(next(iter(arrays.values())))
            padded = [_tensor(name, np.resize(a, (engine.batch_size, *a.shape[1:]))) for name, a in arrays.items()]
            result = self._infer(InferRequest(engine=engine, inputs=padded), context)
        except Exception:
            self._count(request.model_name, 0, {"fail": time.monotonic_ns() - begin})
            raise
        response = _response(request, [tensor for tensor in result.outputs if tensor.name in wanted], rows)
        total = time.monotonic_ns() - begin
        parts = {"compute_input": result.input_ns, "compute_infer": result.infer_ns, "compute_output": result.output_ns}
        self._count(request.model_name, rows, {"success": total, "queue": total - sum(parts.values()), **parts})
        return response

    def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: grpc.ServicerContext
    ) -> pb.ModelStatisticsResponse:
        if request.name:
            self._engine(request.name, request.version)
        names = [request.name] if request.name else self._engines.names()
        with self._lock:
            return pb.ModelStatisticsResponse(model_stats=[self._statistics_of(name) for name in names])

    def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryIndexResponse:
        index = pb.RepositoryIndexResponse.ModelIndex
        models = [index(name=name, version=VERSION, state="READY") for name in self._engines.names()]
        return pb.RepositoryIndexResponse(models=models)

    def _engine(self, name: str, version: str) -> Engine:
        if version not in ("", VERSION):
            raise NotFound(f"engines have one version, {VERSION}; there is no version {version!r} of {name!r}")
        return self._engines.get(name)

    def _describe(self, name: str, engine: Engine, context: grpc.ServicerContext) -> InferResult:
        """Names, types and shapes of an engine's tensors, learnt from one batch of zeros."""
        if name not in self._described:
            self._described[name] = self._infer(InferRequest(engine=engine), context)
        return self._described[name]

    def _statistics_of(self, name: str) -> pb.ModelStatistics:
        return self._statistics.setdefault(name, pb.ModelStatistics(name=name, version=VERSION))

    def _count(self, name: str, rows: int, nanoseconds: dict[str, int]) -> None:
        with self._lock:
            own = self._statistics_of(name)
            for part, value in nanoseconds.items():
                duration = getattr(own.inference_stats, part)
                duration.count += 1
                duration.ns += value
            if rows:
                own.inference_count += rows
                own.execution_count += 1
                own.last_inference = time.time_ns() // 1_000_000


def _metadata(tensor: Tensor) -> pb.ModelMetadataResponse.TensorMetadata:
    shape = [-1, *tensor.shape[1:]]
    return pb.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=TYPES[tensor.dtype].name, shape=shape)


def _config(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "data_type": TYPES[tensor.dtype].number, "dims": tensor.shape[1:]}


def _arrays(request: pb.ModelInferRequest, expected: Sequence[Tensor], batch: int) -> dict[str, np.ndarray]:
    """The request's inputs by name. Raises InvalidInput where they are not what the engine takes."""
    _no_parameters(request)
    given, raw = {tensor.name: tensor for tensor in request.inputs}, request.raw_input_contents
    if len(given) != len(request.inputs) or set(given) != {tensor.name for tensor in expected}:
        names = ", ".join(tensor.name for tensor in request.inputs) or "none"
        raise InvalidInput(f"the model takes the inputs {', '.join(t.name for t in expected)}; given: {names}")
    if raw and len(raw) != len(request.inputs):
        raise InvalidInput(f"{len(request.inputs)} inputs, but {len(raw)} raw_input_contents")
    contents = dict(zip((tensor.name for tensor in request.inputs), raw, strict=True)) if raw else {}
    arrays = {t.name: _array(given[t.name], t, batch, contents.get(t.name)) for t in expected}
    if len({len(array) for array in arrays.values()}) > 1:
        raise InvalidInput("the inputs differ in their number of examples")
    return arrays


def _no_parameters(request: pb.ModelInferRequest) -> None:
    """Shared memory, classification, sequences and priorities are not silently ignored."""
    tensors: list[Any] = [*request.inputs, *request.outputs]
    if named := [*request.parameters, *(key for tensor in tensors for key in tensor.parameters)]:
        raise InvalidInput(f"the parameter {named[0]!r} is not supported")


def _array(given: Any, expected: Tensor, batch: int, raw: bytes | None) -> np.ndarray:
    kind, dtype = TYPES[expected.dtype], np.dtype(expected.dtype)
    shape, wanted = list(given.shape), list(expected.shape[1:])
    if given.datatype != kind.name:
        raise InvalidInput(f"input {given.name} is {kind.name}, given {given.datatype or 'no datatype'}")
    if shape[1:] != wanted or not shape or not 1 <= shape[0] <= batch:
        raise InvalidInput(f"input {given.name} is [1 to {batch}, {', '.join(map(str, wanted))}], given {shape}")
    count = math.prod(shape)
    if raw is not None:
        if given.HasField("contents"):
            raise InvalidInput(f"input {given.name} is given twice, as contents and as raw_input_contents")
        if len(raw) != count * dtype.itemsize:
            raise InvalidInput(f"input {given.name} {shape} is {count * dtype.itemsize} bytes, given {len(raw)}")
        return np.frombuffer(raw, dtype.newbyteorder("<")).reshape(shape)
    if not kind.contents:
        raise InvalidInput(f"input {given.name}: {kind.name} travels in raw_input_contents")
    values = getattr(given.contents, kind.contents)
    if len(values) != count:
        raise InvalidInput(f"input {given.name} {shape} is {count} values in {kind.contents}, given {len(values)}")
    if dtype.kind in "iu" and not np.iinfo(dtype).min <= min(values) <= max(values) <= np.iinfo(dtype).max:
        raise InvalidInput(f"input {given.name}: a value is out of the range of {kind.name}")
    return np.array(values, dtype).reshape(shape)


def _wanted(request: pb.ModelInferRequest, outputs: Sequence[Tensor]) -> set[str]:
    names = {tensor.name for tensor in outputs}
    wanted = {tensor.name for tensor in request.outputs}
    if unknown := sorted(wanted - names):
        raise InvalidInput(f"the model gives the outputs {', '.join(sorted(names))}; asked for {', '.join(unknown)}")
    return wanted or names


def _tensor(name: str, array: np.ndarray) -> Tensor:
    return Tensor(name=name, dtype=array.dtype.name, shape=array.shape, data=array.tobytes())


def _response(request: pb.ModelInferRequest, outputs: Sequence[Tensor], rows: int) -> pb.ModelInferResponse:
    """The first `rows` of each output, typed where the request was."""
    response = pb.ModelInferResponse(model_name=request.model_name, model_version=VERSION, id=request.id)
    as_bytes = bool(request.raw_input_contents) or any(not TYPES[tensor.dtype].contents for tensor in outputs)
    for tensor in outputs:
        kind = TYPES[tensor.dtype]
        array = np.frombuffer(tensor.data, tensor.dtype).reshape(tuple(tensor.shape))[:rows]
        output = response.outputs.add(name=tensor.name, datatype=kind.name, shape=array.shape)
        if as_bytes:
            response.raw_output_contents.append(array.tobytes())
        else:
            getattr(output.contents, kind.contents).extend(array.ravel().tolist())
    return response
