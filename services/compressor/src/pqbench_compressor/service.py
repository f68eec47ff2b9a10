"""CompressorService over gRPC: sends requests to its worker and streams progress and results back."""

from __future__ import annotations

import platform
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from pqbench.compressor.v1 import compressor_pb2 as pb
from pqbench.compressor.v1 import compressor_pb2_grpc
from pqbench.compressor.v1.worker_pb2 import WorkerReply, WorkerRequest
from pqbench_compressor.plugins import MODELS, PRUNERS, QUANTIZERS
from pqbench_wire.blobs import BlobStore
from pqbench_wire.client import blobs_in
from pqbench_wire.jobs import Emit, Jobs, Tell, while_active
from pqbench_wire.materials import bill_of_materials
from pqbench_wire.process import source_version, versions_of
from pqbench_wire.results import Results
from pqbench_wire.shared.locks import Waiting, machine_lock
from pqbench_wire.shared.own_code import ALLOW_CODE
from pqbench_wire.workers import Idle, OnReply, SessionWorker, WorkerProcess, patiently

if TYPE_CHECKING:
    from pqbench_compressor.loading import Loader

KEY = "compressor"  # the worker's key: always the same, so that no request replaces the worker


def versions() -> dict[str, str]:
    """The versions that determine a compressed model: of pqbench's own code and of the libraries."""
    own = {name.replace("_", "-"): source_version(name) for name in ("pqbench_compressor", "pqbench_wire")}
    of_export = versions_of("numpy", "onnxscript")
    return own | of_export | MODELS.libraries() | PRUNERS.libraries() | QUANTIZERS.libraries()


class CompressorServicer(compressor_pb2_grpc.CompressorServiceServicer):
    """The compressor service; its blobs and stored results are in the folder `data`.

    The work is done in a worker process, which can be killed. With `in_process` it is done in this process, where the
    objects that `benchmark()` received are.
    """

    def __init__(self, data: Path, locks: Path | None, allow_code: bool, in_process: bool = False) -> None:
        self.store = BlobStore(data / "blobs")
        self._locks = locks
        self._versions = versions()
        self._work: Session = (
            _Here(data, allow_code) if in_process else SessionWorker(partial(_start, data, allow_code))
        )
        salt = repr(sorted(self._versions.items()))
        self._jobs = Jobs(data / "results" / "compress", pb.CompressEvent, self._usable, salt)
        self._analyses = Jobs(data / "results" / "analyse", pb.AnalyseEvent, lambda event: True, salt)
        # A live object's name does not say what it is: its checks are not kept.
        allowed = f"{salt}\nown code: {allow_code}"
        self._checks = None if in_process else Results(data / "results" / "check", pb.CheckResponse, allowed)

    def GetCapabilities(
        self, request: pb.GetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> pb.GetCapabilitiesResponse:
        catalogs = (MODELS, PRUNERS, QUANTIZERS)
        plugins = [catalog.describe(name, request.details) for catalog in catalogs for name in catalog.names]
        for plugin in plugins:
            if request.details and plugin.kind == MODELS.kind and plugin.available:
                plugin.names.extend(MODELS.load(plugin.name).names())
        return pb.GetCapabilitiesResponse(
            plugins=plugins,
            versions=self._versions,
            device=platform.machine(),
            bill_of_materials=bill_of_materials("pqbench-compressor"),
        )

    def Check(self, request: pb.CheckRequest, context: grpc.ServicerContext) -> pb.CheckResponse:
        if self._checks is None:
            return self._check(request, context)
        key = self._checks.key(request)
        if (known := self._checks.get(key)) is not None:  # importing PyTorch to answer takes seconds
            return known
        answer = self._check(request, context)
        self._checks.put(key, answer)
        return answer

    def _check(self, request: pb.CheckRequest, context: grpc.ServicerContext) -> pb.CheckResponse:
        asked = WorkerRequest(check=request)
        return self._work.ask_if_free(KEY, asked, lambda reply: None, while_active(context)).check

    def Compress(self, request: pb.CompressRequest, context: grpc.ServicerContext) -> Iterator[pb.CompressEvent]:
        return self._jobs.stream(request, lambda emit: self._compress(request, emit), context)

    def _compress(self, request: pb.CompressRequest, emit: Emit[pb.CompressEvent]) -> pb.CompressEvent:
        result = self._ask(WorkerRequest(compress=request), Tell(pb.CompressEvent, emit)).compress
        result.versions.update(self._versions)
        return pb.CompressEvent(result=result)

    def Analyse(self, request: pb.AnalyseRequest, context: grpc.ServicerContext) -> Iterator[pb.AnalyseEvent]:
        return self._analyses.stream(request, lambda emit: self._analyse(request, emit), context)

    def _analyse(self, request: pb.AnalyseRequest, emit: Emit[pb.AnalyseEvent]) -> pb.AnalyseEvent:
        result = self._ask(WorkerRequest(analyse=request), Tell(pb.AnalyseEvent, emit)).analyse
        result.versions.update(self._versions)
        return pb.AnalyseEvent(result=result)

    def _ask(self, request: WorkerRequest, tell: Tell[Any]) -> WorkerReply:
        """The worker's reply; `tell` gets its progress. The machine lock is held shared meanwhile."""
        with machine_lock(self._locks, exclusive=False, waiting=tell.waiting):
            return self._work.ask(KEY, request, tell.reply, tell.idle, tell.waiting)

    def close(self) -> None:
        """End the worker at once, even if it is busy."""
        self._work.abort()

    def _usable(self, event: pb.CompressEvent) -> bool:
        return all(self.store.has(blob) for blob in blobs_in(event))


class Session(Protocol):
    """What handles requests: a worker process, or this process."""

    def ask(self, key: str, request: WorkerRequest, on_reply: OnReply, idle: Idle, waiting: Waiting) -> WorkerReply: ...

    def ask_if_free(self, key: str, request: WorkerRequest, on_reply: OnReply, idle: Idle) -> WorkerReply: ...

    def abort(self) -> None: ...


class _Here:
    """Handles requests in this process; a cancelled one ends when it next reports progress.

    `ask` handles one request at a time, `ask_if_free` does not wait for others.
    """

    def __init__(self, data: Path, allow_code: bool) -> None:
        self._data, self._allow_code = data, allow_code
        self._lock = threading.Lock()
        self._loader: Loader | None = None  # one for all requests: what was loaded and checked is found again

    def ask(self, key: str, request: WorkerRequest, on_reply: OnReply, idle: Idle, waiting: Waiting) -> WorkerReply:
        with patiently(self._lock, waiting):
            return self.ask_if_free(key, request, on_reply, idle)

    def ask_if_free(self, key: str, request: WorkerRequest, on_reply: OnReply, idle: Idle) -> WorkerReply:
        from pqbench_compressor import worker  # imports torch, which takes seconds: only when needed

        self._loader = self._loader or worker.loader_over(self._data, self._allow_code)
        return worker.worker_over(self._data, self._loader, on_reply).handle(request)

    def abort(self) -> None:
        """Do nothing: the work ends with this process."""


def _start(data: Path, allow_code: bool) -> WorkerProcess[WorkerReply]:
    return WorkerProcess("pqbench_compressor.worker", WorkerReply, [str(data), *([ALLOW_CODE] if allow_code else [])])
