"""A worker process: handles the requests of the service, one at a time, without gRPC.

    python -m pqbench_runtime.worker REQUESTS REPLIES PARENT BLOBS [MEMORY]

REQUESTS and REPLIES are inherited pipe descriptors, PARENT is the service's process id, BLOBS the folder of blobs, and
MEMORY an inherited descriptor of the memory for tensors.
Standard output stays free for what native libraries print. The session worker, which lives on between requests, keeps
its engines loaded side by side.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pqbench.runtime.v1 import runtime_pb2 as pb
from pqbench.runtime.v1.worker_pb2 import (
    InferRequest,
    InferResult,
    Tensor,
    TrialRequest,
    WorkerReply,
    WorkerRequest,
)
from pqbench_runtime import building, host, measuring, trials
from pqbench_runtime.backend import BACKENDS, CrossChecked, Forked, Shape
from pqbench_runtime.feeds import feed_of, first_batch, padded
from pqbench_runtime.loaded import LoadedEngines, on_gpu
from pqbench_runtime.memory import AllMemory, OwnMemory, end_of, place
from pqbench_runtime.reporter import Reporter, Send
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import Failed, InvalidInput
from pqbench_wire.shared.inputs import as_feed, flat, load_inputs, named
from pqbench_wire.workers import answer, in_fork


class Worker:
    """Does the work of requests, with the blobs of one store; `send` sends progress.

    `memory` holds the tensors of inferences.
    """

    def __init__(self, store: BlobStore, send: Send, memory: OwnMemory | None = None) -> None:
        self._store, self._reporter = store, Reporter(send)
        self._memory = AllMemory(memory or OwnMemory.create())
        self._engines = LoadedEngines(store)

    def handle(self, request: WorkerRequest) -> WorkerReply:
        """Do what one request asks for and return the reply."""
        if request.HasField("build"):
            return WorkerReply(build=self.build(request.build))
        if request.HasField("measure"):
            return WorkerReply(measure=self.measure(request.measure))
        if request.HasField("infer"):
            return WorkerReply(infer=self.infer(request.infer))
        if request.HasField("profile"):
            return WorkerReply(profile=self.profile(request.profile))
        if request.HasField("cross_check"):
            return WorkerReply(cross_check=self.cross_check(request.cross_check))
        if request.HasField("trial"):
            return WorkerReply(trial=self.trial(request.trial))
        return WorkerReply(predict=self.predict(request.predict))

    def build(self, request: pb.BuildEngineRequest) -> pb.BuildEngineResult:
        """Build an engine and read back the precisions that its layers execute in."""
        work = partial(building.build, request, self._store, self._reporter)
        return _fresh(BACKENDS.load(request.backend), lambda: WorkerReply(build=work())).build

    def measure(self, request: pb.MeasureRequest) -> pb.MeasureResult:
        """Time engines on real examples; then measure their energy, one engine after the other."""
        return measuring.measure(request, self._store, self._engines, self._reporter)

    def predict(self, request: pb.PredictRequest) -> pb.PredictResult:
        """Run every `stride`-th example of a split from `first` on through an engine; the last batch is padded and cut.

        Raises InvalidInput where no example is left, Failed for outputs of another batch size or that are not finite.
        """
        engine = request.engine
        images = load_inputs(self._store, request.inputs, engine.preprocessing)[0]
        images = images[request.first :: request.stride or 1]
        if not len(images):
            raise InvalidInput(f"no example is left of the split from {request.first} on")
        session = self._engines.load(engine).session
        begin, parts, flattened = time.perf_counter(), [], False
        for start in range(0, len(images), engine.batch_size):
            part = images[start : start + engine.batch_size]
            batch = as_feed(padded(part, engine.batch_size), engine.preprocessing)
            outputs = session.bind(batch)()
            if wrong := [list(o.shape) for o in outputs if not o.shape or len(o) != engine.batch_size]:
                raise Failed(f"the engine gave an output of shape {wrong[0]}, wanted [{engine.batch_size}, …]")
            flattened = len(outputs) > 1 or outputs[0].ndim != 2
            parts.append(np.array(flat(outputs)[: len(part)]))
            if not np.isfinite(parts[-1]).all():
                raise Failed(f"the engine's outputs are not finite in examples {start} to {start + len(part) - 1}")
            self._reporter.progress("predict", (start + len(part)) / len(images))
        blob = self._store.put_array(np.concatenate(parts))
        return pb.PredictResult(outputs=blob, seconds=time.perf_counter() - begin, flattened=flattened)

    def trial(self, trial: TrialRequest) -> pb.ArtifactTrial:
        """Load an artifact in one way, run it at each batch size, and compare with the model's own outputs.

        This process did nothing before, or a fork of it does the work: the outcome depends on the artifact alone.
        """
        backend = BACKENDS.load(trial.request.backend)
        work = partial(trials.try_artifact, trial, backend, self._store)
        with self._reporter.alive("try artifact"):
            return _fresh(backend, lambda: WorkerReply(trial=work())).trial

    def infer(self, request: InferRequest) -> InferResult:
        """Run one batch: the request's inputs or, if it has none, zeros; outputs have as many examples as inputs."""
        engine, session = request.engine, self._engines.load(request.engine).session
        shape = Shape(batch=engine.batch_size, preprocessing=engine.preprocessing)
        begin = time.perf_counter_ns()
        batch = feed_of(request.inputs, self._memory, engine) if request.inputs else shape.zeros()
        call = session.bind(batch)
        bound = time.perf_counter_ns()
        outputs = call()
        done = time.perf_counter_ns()
        rows = request.inputs[0].shape[0] if request.inputs else engine.batch_size
        tensors = self._put_outputs(dict(zip(session.outputs, (one[:rows] for one in outputs), strict=True)), request)
        takes = named(batch, session.inputs)
        return InferResult(
            inputs=[Tensor(name=n, dtype=array.dtype.name, shape=array.shape) for n, array in takes.items()],
            outputs=tensors,
            input_ns=bound - begin,
            infer_ns=done - bound,
            output_ns=time.perf_counter_ns() - done,
        )

    def _put_outputs(self, outputs: dict[str, np.ndarray], request: InferRequest) -> list[Tensor]:
        """Write outputs where the request wants them, or behind its inputs in the service's memory."""
        wanted = {tensor.name: tensor for tensor in request.outputs}
        own = {name: Tensor(name=name, dtype=one.dtype.name, shape=one.shape) for name, one in outputs.items()}
        place((tensor for name, tensor in own.items() if name not in wanted), end_of(request.inputs))
        tensors = [wanted.get(name, tensor) for name, tensor in own.items()]
        for tensor, values in zip(tensors, outputs.values(), strict=True):
            self._memory.array(tensor)[...] = values
        return tensors

    def profile(self, request: pb.ProfileRequest) -> pb.ProfileResult:
        """The layers' times by the backend's own profiler and, on a CPU, the bandwidth of a memory copy."""
        backend, arguments = self._engines.loadable(request.engine)
        batch = first_batch(self._store, request.inputs, request.engine)
        found = backend.profile(*arguments, batch, request.seconds)
        layers = [pb.LayerTime(**asdict(layer)) for layer in found.layers]
        copying = None if on_gpu(request.engine) else host.copy_bytes_per_second()
        return pb.ProfileResult(
            tool=found.tool,
            calls=found.calls,
            layers=layers,
            copy_bytes_per_second=copying,
            launches=found.launches,
        )

    def cross_check(self, request: pb.CrossCheckRequest) -> pb.CrossCheckResult:
        """Time the engine with vendor tools; the result is empty where the backend has none."""
        backend, arguments = self._engines.loadable(request.engine)
        if not isinstance(backend, CrossChecked):
            return pb.CrossCheckResult()
        batch = first_batch(self._store, request.inputs, request.engine)
        with self._reporter.alive("cross-check"):
            tools = backend.cross_checks(*arguments, batch, request.seconds)
        return pb.CrossCheckResult(tools=[pb.CrossCheck(**asdict(tool)) for tool in tools])


def _fresh(backend: Any, work: Callable[[], WorkerReply]) -> WorkerReply:
    """Do the work: for a `Forked` backend in a fork of this process, which then runs nothing itself."""
    if not isinstance(backend, Forked):
        return work()
    backend.preload()
    return in_fork(work, WorkerReply)


def main() -> None:
    """Serve requests from the pipe until the service closes it."""
    memory = OwnMemory(int(sys.argv[5])) if len(sys.argv) > 5 else None
    answer(lambda send: Worker(BlobStore(Path(sys.argv[4])), send, memory), WorkerRequest, WorkerReply)


if __name__ == "__main__":
    main()
