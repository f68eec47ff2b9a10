"""RuntimeService: checks requests, has worker processes do the work, and returns their replies."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np

from pqbench.common.v1.common_pb2 import Precision
from pqbench.runtime.v1 import runtime_pb2 as pb
from pqbench.runtime.v1 import runtime_pb2_grpc
from pqbench.runtime.v1.worker_pb2 import InferRequest, InferResult, Tensor, TrialRequest, WorkerReply, WorkerRequest
from pqbench_runtime import host
from pqbench_runtime.backend import (
    BACKENDS,
    Attempted,
    BuildsAhead,
    Forked,
    Scripted,
    Shipped,
    engine_identity,
    identity,
)
from pqbench_runtime.engines import Engines
from pqbench_runtime.memory import OwnMemory
from pqbench_runtime.workers import start_worker
from pqbench_wire.blobs import BlobStore
from pqbench_wire.client import blobs_in
from pqbench_wire.errors import Failed, InvalidInput, TooLarge, Unavailable, WorkerCrashed, first_line
from pqbench_wire.jobs import Emit, Jobs, Listener, Tell, while_active
from pqbench_wire.materials import bill_of_materials
from pqbench_wire.process import source_version
from pqbench_wire.shared.inputs import check_preprocessing
from pqbench_wire.shared.locks import machine_lock
from pqbench_wire.workers import SessionWorker, patiently

MAX_BATCH = 65_536
MAX_ENGINES = 8  # in one Measure; batch sizes in one TryArtifact
MAX_TOOL_SECONDS = 600  # of the profiler in Profile, of each tool in CrossCheck
MAX_PIXELS = 1 << 28  # values of all inputs in one batch


class Inferred(NamedTuple):
    """What an inference gave."""

    result: InferResult
    data: list[bytes]  # of each output; empty where it is in a client's memory
    queue_ns: int  # until its turn came


class RuntimeServicer(runtime_pb2_grpc.RuntimeServiceServicer):
    """The service over a data folder, which holds blobs, the list of built engines and finished results.

    `locks` is the folder of the machine lock; None: one in the temporary folder.
    """

    def __init__(self, data: Path, locks: Path | None) -> None:
        self.store = BlobStore(data / "blobs")
        self.engines = Engines(data / "engines", self.store)
        self._locks = locks
        self._memory, self._inferring = OwnMemory.create(), threading.Lock()
        self._session = SessionWorker(partial(start_worker, self.store.root, self._memory))
        # An error may leave a library's process unusable (a CUDA error does): the next build gets a new one.
        self._builder = SessionWorker(partial(start_worker, self.store.root), ends_after_error=True)
        self._versions = {n.replace("_", "-"): source_version(n) for n in ("pqbench_runtime", "pqbench_wire")}
        salt = repr(sorted((self._versions | BACKENDS.libraries()).items())) + host.cpu_name() + host.nvidia()
        results = data / "results"
        self._builds = Jobs(results / "build", pb.BuildEngineEvent, self._usable, salt)
        self._measures = Jobs(results / "measure", pb.MeasureEvent, self._usable, salt)
        self._predictions = Jobs(results / "predict", pb.PredictEvent, self._usable, salt)
        self._trials = Jobs(results / "try", pb.TryArtifactEvent, self._usable, salt)
        self._profiles = Jobs(results / "profile", pb.ProfileEvent, self._usable, salt)
        self._cross_checks = Jobs(results / "cross_check", pb.CrossCheckEvent, self._usable, salt)

    def GetCapabilities(
        self, request: pb.GetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> pb.GetCapabilitiesResponse:
        backends = [self._backend(name) for name in BACKENDS.names if not request.backends or name in request.backends]
        return pb.GetCapabilitiesResponse(
            backends=backends,
            versions=self._versions,
            environment=host.environment(),
            bill_of_materials=bill_of_materials("pqbench-runtime"),
        )

    def Check(self, request: pb.CheckRequest, context: grpc.ServicerContext) -> pb.CheckResponse:
        options, module = BACKENDS.configure(request.backend, request.options_json), BACKENDS.load(request.backend)
        place = _place(module, options)
        refused = module.refusals(options) if isinstance(module, BuildsAhead) else {}
        return pb.CheckResponse(
            options_json=json.dumps(asdict(options), sort_keys=True),
            device=place.device,
            unavailable_reason=place.lacking,
            built_for=place.built_for,
            refused={Precision.Name(one): why for one, why in refused.items()},
            routes=[pb.Route(**asdict(route)) for route in module.ROUTES if route.holds(options)],
            timed_options=module.TIMED,
            engine_file=module.ENGINE_FILE,
            scripts=module.SCRIPTS if isinstance(module, Scripted) else {},
        )

    def BuildEngine(
        self, request: pb.BuildEngineRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.BuildEngineEvent]:
        _check_shape(request.batch_size, request.preprocessing)
        return self._builds.stream(
            request, lambda emit: self._build(request, emit), context, _identity(request, engine_identity)
        )

    def Measure(self, request: pb.MeasureRequest, context: grpc.ServicerContext) -> Iterator[pb.MeasureEvent]:
        if not 1 <= len(request.engines) <= MAX_ENGINES:
            raise InvalidInput(f"Measure takes 1 to {MAX_ENGINES} engines, got {len(request.engines)}")
        if not request.run:
            raise InvalidInput("Measure needs the name of a run: a measurement is never reused by another")
        if len({(engine.backend, engine.options_json) for engine in request.engines}) > 1:
            raise InvalidInput("Measure takes engines of one backend with equal options: threads are process-wide")
        for engine in request.engines:
            _check_shape(engine.batch_size, engine.preprocessing)
        return self._measures.stream(
            request, lambda emit: self._measure(request, emit), context, _identity(request.engines[0])
        )

    def Predict(self, request: pb.PredictRequest, context: grpc.ServicerContext) -> Iterator[pb.PredictEvent]:
        _check_shape(request.engine.batch_size, request.engine.preprocessing)
        return self._predictions.stream(
            request, lambda emit: self._predict(request, emit), context, _identity(request.engine)
        )

    def TryArtifact(
        self, request: pb.TryArtifactRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.TryArtifactEvent]:
        if not 1 <= len(request.batch_sizes) <= MAX_ENGINES:
            raise InvalidInput(f"TryArtifact takes 1 to {MAX_ENGINES} batch sizes, got {len(request.batch_sizes)}")
        for size in request.batch_sizes:
            _check_shape(size, request.preprocessing)
        backend = BACKENDS.load(request.backend)
        salt = repr(sorted(backend.versions().items()))
        return self._trials.stream(request, lambda emit: self._try_artifact(request, emit), context, salt)

    def Profile(self, request: pb.ProfileRequest, context: grpc.ServicerContext) -> Iterator[pb.ProfileEvent]:
        _check_timed(request, "a profile")
        return self._profiles.stream(
            request, lambda emit: self._profile(request, emit), context, _identity(request.engine)
        )

    def CrossCheck(self, request: pb.CrossCheckRequest, context: grpc.ServicerContext) -> Iterator[pb.CrossCheckEvent]:
        _check_timed(request, "a cross-check")
        return self._cross_checks.stream(
            request, lambda emit: self._cross_check(request, emit), context, _identity(request.engine)
        )

    def Unload(self, request: pb.UnloadRequest, context: grpc.ServicerContext) -> pb.UnloadResponse:
        self._session.unload(while_active(context))
        self._builder.unload(while_active(context))
        return pb.UnloadResponse()

    def infer(
        self, engine: pb.Engine, inputs: Mapping[str, Tensor | np.ndarray], outputs: Sequence[Tensor], context: Listener
    ) -> Inferred:
        """Run one batch through a built engine, for the Open Inference Protocol; waits while something is measured.

        Inputs are arrays, or tensors in a client's memory; `outputs` are those that belong there. Raises Unavailable
        where the worker crashes; the next call gets another.
        """
        begin, idle = time.monotonic_ns(), while_active(context)
        with patiently(self._inferring, idle), machine_lock(self._locks, exclusive=False, waiting=idle):
            waited = time.monotonic_ns() - begin
            copied = self._memory.put({name: one for name, one in inputs.items() if isinstance(one, np.ndarray)})
            given = [*copied, *(one for one in inputs.values() if isinstance(one, Tensor))]
            asked = WorkerRequest(infer=InferRequest(engine=engine, inputs=given, outputs=outputs))
            try:
                found = self._session.ask(_process_key([engine]), asked, lambda reply: None, idle, idle).infer
            except WorkerCrashed as error:
                raise Unavailable(f"{error}; another is started for the next call") from error
            data = [b"" if one.region else self._memory.array(one).tobytes() for one in found.outputs]
        return Inferred(found, data, waited)

    def close(self) -> None:
        """Kill the long-lived workers, even in the middle of a request; other workers die with this process."""
        self._session.abort()
        self._builder.abort()

    def _build(self, request: pb.BuildEngineRequest, emit: Emit[pb.BuildEngineEvent]) -> pb.BuildEngineEvent:
        tell = Tell(pb.BuildEngineEvent, emit)
        key = _builder_key(request.backend, f"{request.options_json} replicate {request.replicate}")
        with self._machine(tell, exclusive=False):
            reply = self._builder.ask_if_free(key, WorkerRequest(build=request), tell.reply, tell.idle)
        reply.build.model_name = self.engines.add(reply.build.engine)
        return pb.BuildEngineEvent(result=reply.build)

    def _measure(self, request: pb.MeasureRequest, emit: Emit[pb.MeasureEvent]) -> pb.MeasureEvent:
        tell = Tell(pb.MeasureEvent, emit)
        key = _process_key(request.engines, request.repeat)
        reply = self._ask(key, WorkerRequest(measure=request), tell, exclusive=True)
        return pb.MeasureEvent(result=reply.measure)

    def _predict(self, request: pb.PredictRequest, emit: Emit[pb.PredictEvent]) -> pb.PredictEvent:
        tell = Tell(pb.PredictEvent, emit)
        reply = self._ask(_process_key([request.engine]), WorkerRequest(predict=request), tell, exclusive=False)
        return pb.PredictEvent(result=reply.predict)

    def _try_artifact(self, request: pb.TryArtifactRequest, emit: Emit[pb.TryArtifactEvent]) -> pb.TryArtifactEvent:
        backend, tell = BACKENDS.load(request.backend), Tell(pb.TryArtifactEvent, emit)
        result = pb.TryArtifactResult()
        for way in ("", *backend.WAYS) if isinstance(backend, Shipped) else ():
            result.trials.append(self._trial(request, way, tell))
            if not result.trials[-1].problem:
                break
        return pb.TryArtifactEvent(result=result)

    def _trial(self, request: pb.TryArtifactRequest, way: str, tell: Tell[Any]) -> pb.ArtifactTrial:
        """Load an artifact in one way, in a new process; a crash of that process is a result, not an error."""
        asked = WorkerRequest(trial=TrialRequest(request=request, way=way))
        try:
            if not isinstance(BACKENDS.load(request.backend), Forked):
                return self._throwaway(asked, tell, exclusive=False).trial
            with self._machine(tell, exclusive=False):
                return self._builder.ask_if_free(_builder_key(request.backend), asked, tell.reply, tell.idle).trial
        except Failed as error:
            return pb.ArtifactTrial(way=way, problem=str(error))

    def _profile(self, request: pb.ProfileRequest, emit: Emit[pb.ProfileEvent]) -> pb.ProfileEvent:
        tell = Tell(pb.ProfileEvent, emit)
        reply = self._ask(_process_key([request.engine]), WorkerRequest(profile=request), tell, exclusive=True)
        return pb.ProfileEvent(result=reply.profile)

    def _cross_check(self, request: pb.CrossCheckRequest, emit: Emit[pb.CrossCheckEvent]) -> pb.CrossCheckEvent:
        """Run vendor tools from a new worker; the session worker is ended first, to free its memory and threads."""
        tell = Tell(pb.CrossCheckEvent, emit)
        self._session.unload(tell.waiting)
        reply = self._throwaway(WorkerRequest(cross_check=request), tell, exclusive=True)
        return pb.CrossCheckEvent(result=reply.cross_check)

    def _ask(self, key: str, request: WorkerRequest, tell: Tell[Any], exclusive: bool) -> WorkerReply:
        """Send a request to the session worker while holding the machine lock; exclusively to measure."""
        with self._machine(tell, exclusive):
            return self._session.ask(key, request, tell.reply, tell.idle, tell.waiting)

    def _throwaway(self, request: WorkerRequest, tell: Tell[Any], exclusive: bool) -> WorkerReply:
        """Send a request to a new worker, which ends after its reply, while holding the machine lock."""
        with self._machine(tell, exclusive), closing(start_worker(self.store.root)) as worker:
            return worker.ask(request, tell.reply, tell.idle)

    @contextmanager
    def _machine(self, tell: Tell[Any], exclusive: bool) -> Iterator[None]:
        """Hold the machine lock; exclusively after the builder was ended, which frees its memory and threads."""
        with machine_lock(self._locks, exclusive, tell.waiting):
            if exclusive:
                self._builder.unload(tell.waiting)
            yield

    def _backend(self, name: str) -> pb.Backend:
        backend = pb.Backend(plugin=BACKENDS.describe(name))
        if not backend.plugin.available:
            return backend
        try:
            module = BACKENDS.load(name)
            builds_ahead = isinstance(module, BuildsAhead)
            if builds_ahead:
                backend.versions.update(module.versions())  # engines depend on them also where there is no device
            place = _place(module, module.Config())
            backend.device = place.device
            backend.versions.update(module.versions())
            backend.routes.extend(pb.Route(**asdict(route)) for route in module.ROUTES)
            reason = f"{place.lacking}; it builds for {place.built_for}" if place.lacking else ""
        except Unavailable as error:
            reason = str(error)
        except Exception as error:  # a mistake in a user's plug-in
            reason = f"{type(error).__name__}: {first_line(error)}"
        backend.plugin.available, backend.plugin.unavailable_reason = not reason, reason
        return backend

    def _usable(self, event: Any) -> bool:
        return all(self.store.has(blob) for blob in blobs_in(event))


def _process_key(engines: Any, repeat: int = 0) -> str:
    """The key of a session worker: another backend, other options or another repeat get a new process.

    Some options, such as the number of threads, are process-wide in some libraries.
    """
    asked = "|".join(sorted({f"{engine.backend} {engine.options_json}" for engine in engines}))
    return f"{asked} repeat {repeat}" if repeat else asked


def _builder_key(backend: str, otherwise: str = "") -> str:
    """The key of a builder: one that forks for each request serves all of a backend."""
    return backend if isinstance(BACKENDS.load(backend), Forked) else f"{backend} {otherwise}"


class _Place(NamedTuple):
    """Where a backend's engines run, or why nowhere here, and what they are built for ahead of time."""

    device: str
    lacking: str
    built_for: str


def _place(module: Any, options: Any) -> _Place:
    """Raises Unavailable where there is no device and engines cannot be built without it."""
    built_for = module.built_for(options) if isinstance(module, BuildsAhead) else ""
    try:
        device = module.device(options)
        if isinstance(module, Attempted):
            module.attempt(options)
        return _Place(device, "", built_for)
    except Unavailable as error:
        if not built_for:
            raise
        return _Place("", str(error), built_for)


def _identity(asked: pb.BuildEngineRequest | pb.Engine, of: Callable[[Any, Any], str] = identity) -> str:
    """Device and library versions, or what an engine is built for: what goes into the key of a result.

    Services with other versions may share the folder of kept results, and must not reuse each other's.
    """
    return of(BACKENDS.load(asked.backend), BACKENDS.configure(asked.backend, asked.options_json))


def _check_timed(request: pb.ProfileRequest | pb.CrossCheckRequest, what: str) -> None:
    if not request.run:
        raise InvalidInput(f"{what} needs the name of a run: it is never reused by another")
    if not 0 < request.seconds <= MAX_TOOL_SECONDS:
        raise InvalidInput(f"seconds of {what} must be over 0, at most {MAX_TOOL_SECONDS}, got {request.seconds}")
    _check_shape(request.engine.batch_size, request.engine.preprocessing)


def _check_shape(batch: int, preprocessing: Any) -> None:
    if not 1 <= batch <= MAX_BATCH:
        raise InvalidInput(f"batch_size must be 1 to {MAX_BATCH}, got {batch}")
    check_preprocessing(preprocessing)
    shapes = [one.shape for one in preprocessing.inputs]
    values = sum(map(math.prod, shapes or [(preprocessing.height, preprocessing.width, preprocessing.channels)]))
    if batch * values > MAX_PIXELS:
        raise TooLarge(f"one batch would have over {MAX_PIXELS} values")
