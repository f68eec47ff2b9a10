"""The Open Inference Protocol, version 2, over the engines that this runtime has built.

It only translates: inferences run in the session worker, one at a time, and wait while something is measured. In its
statistics `compute_input` includes the communication with the worker; the figures of record come from Measure.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import grpc

from pqbench.inference import open_inference_pb2 as pb
from pqbench.inference import open_inference_pb2_grpc
from pqbench.runtime.v1.runtime_pb2 import Engine
from pqbench.runtime.v1.worker_pb2 import InferResult
from pqbench_runtime.engines import Engines
from pqbench_runtime.oip_regions import Regions
from pqbench_runtime.oip_tensors import (
    VERSION,
    config_of,
    inputs_of,
    metadata_of,
    placed_outputs,
    response_of,
    wanted_outputs,
)
from pqbench_runtime.service import Inferred
from pqbench_wire.errors import NotFound
from pqbench_wire.process import source_version

MAX_MESSAGE = 64 << 20  # bytes: enough for a batch of 100 float32 images of 224 x 224


class InferenceServicer(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """The protocol's gRPC service for `engines`; `infer` runs one batch in a worker."""

    def __init__(self, engines: Engines, infer: Callable[..., Inferred]) -> None:
        self._engines, self._infer, self._regions = engines, infer, Regions()
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
        extensions = ["model_configuration", "statistics", "model_repository", "system_shared_memory"]
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
            inputs=[metadata_of(tensor) for tensor in described.inputs],
            outputs=[metadata_of(tensor) for tensor in described.outputs],
        )

    def ModelConfig(self, request: pb.ModelConfigRequest, context: grpc.ServicerContext) -> pb.ModelConfigResponse:
        engine = self._engine(request.name, request.version)
        described = self._describe(request.name, engine, context)
        config = pb.ModelConfig(
            name=request.name,
            platform=f"pqbench_{engine.backend}",
            backend=engine.backend,
            max_batch_size=engine.batch_size,
            input=[pb.ModelInput(**config_of(tensor)) for tensor in described.inputs],
            output=[pb.ModelOutput(**config_of(tensor)) for tensor in described.outputs],
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
            inputs = inputs_of(request, described.inputs, engine.batch_size, self._regions)
            wanted, rows = wanted_outputs(request, described.outputs), request.inputs[0].shape[0]
            placed = placed_outputs(request, described.outputs, rows, self._regions)
            result, data, queue_ns = self._infer(engine, inputs, placed, context)
        except Exception:
            self._count(request.model_name, 0, {"fail": time.monotonic_ns() - begin})
            raise
        contents = {tensor.name: one for tensor, one in zip(result.outputs, data, strict=True)}
        response = response_of(request, [tensor for tensor in result.outputs if tensor.name in wanted], contents)
        total = time.monotonic_ns() - begin
        parts = {"queue": queue_ns, "compute_infer": result.infer_ns, "compute_output": result.output_ns}
        self._count(request.model_name, rows, {"success": total, "compute_input": total - sum(parts.values()), **parts})
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

    def SystemSharedMemoryStatus(
        self, request: pb.SystemSharedMemoryStatusRequest, context: grpc.ServicerContext
    ) -> pb.SystemSharedMemoryStatusResponse:
        return self._regions.status(request.name)

    def SystemSharedMemoryRegister(
        self, request: pb.SystemSharedMemoryRegisterRequest, context: grpc.ServicerContext
    ) -> pb.SystemSharedMemoryRegisterResponse:
        self._regions.add(request, context)
        return pb.SystemSharedMemoryRegisterResponse()

    def SystemSharedMemoryUnregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest, context: grpc.ServicerContext
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        self._regions.remove(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    def _engine(self, name: str, version: str) -> Engine:
        if version not in ("", VERSION):
            raise NotFound(f"engines have one version, {VERSION}; there is no version {version!r} of {name!r}")
        return self._engines.get(name)

    def _describe(self, name: str, engine: Engine, context: grpc.ServicerContext) -> InferResult:
        """Names, types and shapes of an engine's inputs and outputs, learnt once by running a batch of zeros."""
        if name not in self._described:
            self._described[name] = self._infer(engine, {}, [], context).result
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
