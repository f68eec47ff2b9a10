"""CompressorService: turns requests into calls of the pipeline and back."""

from __future__ import annotations

import platform
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from pqbench.common.v1.common_pb2 import Progress
from pqbench.compressor.v1 import compressor_pb2 as pb
from pqbench.compressor.v1 import compressor_pb2_grpc
from pqbench_compressor.plugins import MODELS, PRUNERS, QUANTIZERS
from pqbench_wire.blobs import BlobStore
from pqbench_wire.client import blobs_in
from pqbench_wire.jobs import Emit, Jobs
from pqbench_wire.process import machine_lock, source_version, versions_of

if TYPE_CHECKING:
    from pqbench_compressor.pipeline import Pipeline

LIBRARIES = (
    "torch", "torchvision", "timm", "torch-pruning", "onnx", "onnxscript", "onnxruntime", "numpy", "nncf",
    "nvidia-modelopt", "neural-compressor", "torchao",
)  # fmt: skip


def versions() -> dict[str, str]:
    """What decides a variant: our own code and the libraries."""
    own = {name.replace("_", "-"): source_version(name) for name in ("pqbench_compressor", "pqbench_wire")}
    return own | versions_of(*LIBRARIES)


class CompressorServicer(compressor_pb2_grpc.CompressorServiceServicer):
    """The service over the blobs in `data`."""

    def __init__(self, data: Path, locks: Path | None, allow_code: bool) -> None:
        self.store = BlobStore(data / "blobs")
        self._allow_code = allow_code
        self._locks = locks
        self._resume = data / "training"
        self._versions = versions()
        self._one_at_a_time = threading.Lock()
        salt = repr(sorted(self._versions.items()))
        self._jobs = Jobs(data / "results" / "compress", pb.CompressEvent, self._usable, salt)
        self._analyses = Jobs(data / "results" / "analyse", pb.AnalyseEvent, lambda event: True, salt)

    def GetCapabilities(
        self, request: pb.GetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> pb.GetCapabilitiesResponse:
        catalogs = (MODELS, PRUNERS, QUANTIZERS)
        plugins = [catalog.describe(name, request.details) for catalog in catalogs for name in catalog.names]
        for plugin in plugins:
            if request.details and plugin.kind == MODELS.kind and plugin.available:
                plugin.names.extend(MODELS.load(plugin.name).names())
        return pb.GetCapabilitiesResponse(plugins=plugins, versions=self._versions, device=platform.machine())

    def Check(self, request: pb.CheckRequest, context: grpc.ServicerContext) -> pb.CheckResponse:
        return self._pipeline().check(request)

    def Compress(self, request: pb.CompressRequest, context: grpc.ServicerContext) -> Iterator[pb.CompressEvent]:
        return self._jobs.stream(request, lambda emit: self._compress(request, emit))

    def _compress(self, request: pb.CompressRequest, emit: Emit[pb.CompressEvent]) -> pb.CompressEvent:
        def report(stage: str, fraction: float, message: str) -> None:
            emit(pb.CompressEvent(progress=Progress(stage=stage, fraction=fraction, message=message)))

        with self._one_at_a_time, machine_lock(self._locks, exclusive=False):
            result = self._pipeline().compress(request, report)
        result.versions.update(self._versions)
        return pb.CompressEvent(result=result)

    def Analyse(self, request: pb.AnalyseRequest, context: grpc.ServicerContext) -> Iterator[pb.AnalyseEvent]:
        return self._analyses.stream(request, lambda emit: self._analyse(request, emit))

    def _analyse(self, request: pb.AnalyseRequest, emit: Emit[pb.AnalyseEvent]) -> pb.AnalyseEvent:
        def report(stage: str, fraction: float, message: str) -> None:
            emit(pb.AnalyseEvent(progress=Progress(stage=stage, fraction=fraction, message=message)))

        with self._one_at_a_time, machine_lock(self._locks, exclusive=False):
            result = self._pipeline().analyse(request, report)
        result.versions.update(self._versions)
        return pb.AnalyseEvent(result=result)

    def _pipeline(self) -> Pipeline:
        from pqbench_compressor.pipeline import Pipeline  # imports torch: seconds, and not before it is needed

        return Pipeline(store=self.store, allow_code=self._allow_code, resume=self._resume)

    def _usable(self, event: pb.CompressEvent) -> bool:
        return all(self.store.has(blob) for blob in blobs_in(event))
