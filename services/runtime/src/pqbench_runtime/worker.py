"""A worker process: does what the service asks, one request at a time. No gRPC in it.

    python -m pqbench_runtime.worker REQUESTS REPLIES PARENT BLOBS

REQUESTS and REPLIES are inherited pipe descriptors; standard output stays free for what native
libraries print. A session worker keeps its engines loaded, side by side.
"""

from __future__ import annotations

import contextlib
import gc
import io
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pqbench.common.v1.common_pb2 import Artifact, Form, Images, Precision, Progress
from pqbench.runtime.v1 import runtime_pb2 as pb
from pqbench.runtime.v1.worker_pb2 import (
    InferRequest,
    InferResult,
    Tensor,
    TrialRequest,
    WorkerReply,
    WorkerRequest,
)
from pqbench_runtime import energy, gpu, host, timing
from pqbench_runtime.backend import (
    BACKENDS,
    UNKNOWN,
    Built,
    CrossChecked,
    Job,
    Route,
    Session,
    Shape,
    identity,
    route_for,
)
from pqbench_runtime.load import LoadMeter
from pqbench_runtime.stability import judge
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import (
    Failed,
    InvalidInput,
    PqbenchError,
    PrecisionMismatch,
    Refused,
    Unavailable,
)
from pqbench_wire.fidelity import sqnr
from pqbench_wire.inputs import Feed, Inputs, as_feed, flat, load_inputs, named
from pqbench_wire.jobs import canonical, first_line
from pqbench_wire.onnx_walk import external_locations
from pqbench_wire.workers import answer

MAX_ENGINES = 8  # kept loaded; the least recently used goes first
MAX_HELD = 4 << 30  # bytes of engine files kept loaded, where it is more than one
PROGRESS_SECONDS = 1.0
Send = Callable[[WorkerReply], None]


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    session: Session
    size: int  # bytes of the engine's file
    seconds: float  # that loading took
    first_call: float  # seconds
    memory: int | None  # bytes by which the process grew; None where what had been freed before was enough
    device_memory: int | None  # bytes by which the board's memory in use grew


class Worker:
    """The work, over the blobs of one store."""

    def __init__(self, store: BlobStore, send: Send) -> None:
        self._store = store
        self._caches = store.root.parent / "trt_caches"
        self._send = send
        self._loaded: dict[tuple[bytes, int, int], _Loaded] = {}  # by engine, instance, and how many there are
        self._told = 0.0

    def handle(self, request: WorkerRequest) -> WorkerReply:
        """The reply to one request."""
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
        """Build an engine and read back what its layers execute in."""
        backend = BACKENDS.load(request.backend)
        options = BACKENDS.configure(request.backend, request.options_json)
        route = route_for(backend, options, request.artifact.precision, request.artifact.form)
        if route is None:
            raise Refused(f"{request.backend} has no route for this precision in this form with these options")
        begin = time.perf_counter()
        with self._alive("build") as report:
            built = backend.build(self._job(request, report), options)
        seconds = time.perf_counter() - begin
        executed = executed_precisions(built)
        _check_precision(executed, route, request.backend)
        engine = pb.Engine(
            backend=request.backend,
            options_json=request.options_json,
            blob=self._store.put(built.data),
            batch_size=request.batch_size,
            precision=request.artifact.precision,
            preprocessing=request.preprocessing,
            built_on=identity(backend, options),
        )
        layers = [pb.Layer(**asdict(layer)) for layer in built.layers]
        return pb.BuildEngineResult(
            engine=engine,
            build_seconds=seconds,
            layers=layers,
            executed=executed,
            settings=built.settings,
            versions=backend.versions(),
        )

    def measure(self, request: pb.MeasureRequest) -> pb.MeasureResult:
        """Time the engines, interleaved, on real images; then their energy, one after the other.

        Other engines are unloaded first: what they hold would be in this one's memory.
        """
        settings = request.settings
        timing.check_settings(settings)
        self._unload_others(request.engines, _count(settings))
        peak_known = host.forget_peak()
        loaded = [self._instances(engine, settings) for engine in request.engines]
        batches = [self._first_batch(request.inputs, engine) for engine in request.engines]
        engines = [[one.session.bind(b) for one in instances] for instances, b in zip(loaded, batches, strict=True)]
        first, before = request.engines[0], host.load_average()
        readings, load, meter = [*self._gpu_reading(first, 0.0)], list[pb.LoadReading](), LoadMeter()

        def after_round(fraction: float) -> None:
            load.append(meter.read())
            readings.extend(self._gpu_reading(first, load[-1].seconds))
            self._progress("measure", fraction)

        samples = timing.measure(engines, settings, after_round)
        timings = [timing.summarise(own) for own in samples]
        for summary, own, each in zip(timings, samples, loaded, strict=True):
            summary.settings.update(each[0].session.settings)
            summary.load_seconds, summary.first_call_seconds = each[0].seconds, each[0].first_call
            if (memory := _together(one.memory for one in each)) is not None:
                summary.memory_bytes = memory
            if (memory := _together(one.device_memory for one in each)) is not None:
                summary.device_memory_bytes = memory
            judge(summary, np.asarray(own.latency), own.medians, settings, readings, load)
        self._add_energy(timings, engines, request)
        return pb.MeasureResult(
            timings=timings,
            samples=self._store.put(_archive(samples)),
            settings=settings,
            load_average_before=before,
            load_average_after=host.load_average(),
            peak_rss_bytes=host.peak_memory() if peak_known else None,
            environment=host.environment() | self._gpu_environment(first),
            gpu=readings,
            load=load,
        )

    def _add_energy(
        self, timings: list[pb.EngineTiming], engines: Sequence[timing.Instances], request: pb.MeasureRequest
    ) -> None:
        settings = request.settings
        if not settings.energy_seconds:
            return
        try:
            counter = energy.meter(_on_gpu(request.engines[0]))
        except Unavailable as error:
            for summary in timings:
                summary.energy_source = str(error)
            return
        idle, seconds = energy.idle_watts(counter), max(2.0, settings.energy_seconds)
        for summary, instances in zip(timings, engines, strict=True):
            run = partial(timing.run_for, instances, settings, seconds, summary.server.rate)
            try:
                used = energy.of_call(counter, run, idle)
            except Unavailable as error:
                summary.energy_source = str(error)
                continue
            summary.joules_per_call, summary.idle_watts = used.joules_per_call, used.idle_watts
            summary.energy_source = counter.source

    def predict(self, request: pb.PredictRequest) -> pb.PredictResult:
        """Run a whole split through an engine; the last batch is padded and cut."""
        engine = request.engine
        images = load_inputs(self._store, request.inputs, engine.preprocessing)[0]
        images = images[request.first :: request.stride or 1]
        if not len(images):
            raise InvalidInput(f"no example is left of the split from {request.first} on")
        session = self._load(engine).session
        begin, parts, flattened = time.perf_counter(), [], False
        for start in range(0, len(images), engine.batch_size):
            part = images[start : start + engine.batch_size]
            batch = as_feed(_padded(part, engine.batch_size), engine.preprocessing)
            outputs = session.bind(batch)()
            if wrong := [list(o.shape) for o in outputs if not o.shape or len(o) != engine.batch_size]:
                raise Failed(f"the engine gave an output of shape {wrong[0]}, wanted [{engine.batch_size}, …]")
            flattened = len(outputs) > 1 or outputs[0].ndim != 2
            parts.append(np.array(flat(outputs)[: len(part)]))
            if not np.isfinite(parts[-1]).all():
                raise Failed(f"the engine gives outputs that are not finite, by example {start + len(part)}")
            self._progress("predict", (start + len(part)) / len(images))
        blob = self._store.put_array(np.concatenate(parts))
        return pb.PredictResult(outputs=blob, seconds=time.perf_counter() - begin, flattened=flattened)

    def trial(self, trial: TrialRequest) -> pb.ArtifactTrial:
        """Load an artifact in one way, run it with each batch size, and compare with the model's own outputs."""
        asked, backend = trial.request, BACKENDS.load(trial.request.backend)
        prepared = load_inputs(self._store, asked.inputs, asked.preprocessing)[0]
        reference = self._store.array(asked.reference)
        batches = [as_feed(_padded(prepared[:size], size), asked.preprocessing) for size in asked.batch_sizes]
        with self._alive("try artifact"):
            outputs = [flat(one) for one in backend.run_artifact(self._artifact(asked.artifact), trial.way, batches)]
        wanted = [np.resize(reference[: len(one)], (len(one), *reference.shape[1:])) for one in outputs]
        result = pb.ArtifactTrial(way=trial.way)
        if odd := next((one.shape for one, own in zip(outputs, wanted, strict=True) if one.shape != own.shape), None):
            result.problem = f"outputs have the shape {list(odd)}"
        elif not all(bool(np.isfinite(one).all()) for one in outputs):
            result.problem = "outputs are not finite"
        else:
            result.sqnr_db = min(sqnr(own, one) for one, own in zip(outputs, wanted, strict=True))
            wrong = result.sqnr_db < asked.least_db
            result.problem = f"outputs are {result.sqnr_db:.1f} dB from the model's" if wrong else ""
        return result

    def infer(self, request: InferRequest) -> InferResult:
        """Run one batch: the request's, or zeros."""
        engine, session = request.engine, self._load(request.engine).session
        shape = Shape(batch=engine.batch_size, preprocessing=engine.preprocessing)
        batch = _feed(request.inputs, engine) if request.inputs else shape.zeros()
        begin = time.perf_counter_ns()
        call = session.bind(batch)
        bound = time.perf_counter_ns()
        outputs = call()
        done = time.perf_counter_ns()
        named_outputs = zip(session.outputs, outputs, strict=True)
        tensors = [Tensor(name=n, dtype=o.dtype.name, shape=o.shape, data=o.tobytes()) for n, o in named_outputs]
        takes = named(batch, session.inputs)
        return InferResult(
            inputs=[Tensor(name=n, dtype=array.dtype.name, shape=array.shape) for n, array in takes.items()],
            outputs=tensors,
            input_ns=bound - begin,
            infer_ns=done - bound,
            output_ns=time.perf_counter_ns() - done,
        )

    def profile(self, request: pb.ProfileRequest) -> pb.ProfileResult:
        """Where a call's time goes, by the backend's own profiler."""
        backend, arguments = self._loadable(request.engine)
        batch = self._first_batch(request.inputs, request.engine)
        found = backend.profile(*arguments, batch, request.seconds)
        layers = [pb.LayerTime(**asdict(layer)) for layer in found.layers]
        copying = None if _on_gpu(request.engine) else host.copy_bytes_per_second()
        return pb.ProfileResult(
            tool=found.tool,
            calls=found.calls,
            layers=layers,
            copy_bytes_per_second=copying,
            launches=found.launches,
        )

    def cross_check(self, request: pb.CrossCheckRequest) -> pb.CrossCheckResult:
        """What other tools measure of the engine."""
        backend, arguments = self._loadable(request.engine)
        if not isinstance(backend, CrossChecked):
            return pb.CrossCheckResult()
        batch = self._first_batch(request.inputs, request.engine)
        with self._alive("cross-check"):
            tools = backend.cross_checks(*arguments, batch, request.seconds)
        return pb.CrossCheckResult(tools=[pb.CrossCheck(**asdict(tool)) for tool in tools])

    def _loadable(self, engine: pb.Engine, instances: int = 1) -> tuple[Any, tuple[Path, Precision, Shape, Any]]:
        """An engine's backend, and what its functions take to load it. Raises Refused on another device."""
        backend = BACKENDS.load(engine.backend)
        options = BACKENDS.configure(engine.backend, engine.options_json)
        if engine.built_on and engine.built_on != (here := identity(backend, options)):
            raise Refused(f"this engine was built on {engine.built_on}; this is {here}")
        shape = Shape(batch=engine.batch_size, preprocessing=engine.preprocessing, instances=instances)
        return backend, (self._store.path(engine.blob), engine.precision, shape, options)

    def _first_batch(self, inputs: Images, engine: pb.Engine) -> Feed:
        prepared = load_inputs(self._store, inputs, engine.preprocessing)[0]
        return as_feed(_padded(prepared[: engine.batch_size], engine.batch_size), engine.preprocessing)

    def _load(self, engine: pb.Engine, instance: int = 0, instances: int = 1) -> _Loaded:
        """The loaded engine; one that works beside itself is loaded once an instance."""
        key = (canonical(engine), instance, instances)
        if key not in self._loaded:
            while instances == 1 and self._is_full(engine.blob.size):  # several: a measurement needs all of its own
                del self._loaded[next(iter(self._loaded))]
                gc.collect()
            backend, arguments = self._loadable(engine, instances)
            device_before = self._device_memory(engine)
            before, begin = host.memory(), time.perf_counter()
            with _libraries_errors(f"{engine.backend} cannot run this engine"):
                session = backend.load(*arguments)
                loaded = time.perf_counter()
                session.bind(arguments[2].zeros())()  # what the first call allocates is the engine's too
            called = time.perf_counter()
            self._loaded[key] = _Loaded(
                session=session,
                size=engine.blob.size,
                seconds=loaded - begin,
                first_call=called - loaded,
                memory=_growth(before, host.memory()),
                device_memory=_growth(device_before, self._device_memory(engine)),
            )
        self._loaded[key] = entry = self._loaded.pop(key)
        return entry

    def _is_full(self, size: int) -> bool:
        """Whether an engine has to go before one of so many bytes is loaded."""
        held = sum(one.size for one in self._loaded.values())
        return bool(self._loaded) and (len(self._loaded) >= MAX_ENGINES or held + size > MAX_HELD)

    def _unload_others(self, engines: Iterable[pb.Engine], instances: int) -> None:
        wanted = {canonical(engine) for engine in engines}
        for key in [key for key in self._loaded if key[0] not in wanted or key[2] != instances]:
            del self._loaded[key]
        gc.collect()

    def _instances(self, engine: pb.Engine, settings: pb.MeasureSettings) -> list[_Loaded]:
        instances = _count(settings)
        return [self._load(engine, instance, instances) for instance in range(instances)]

    def _artifact(self, artifact: Artifact) -> Path:
        """The file of an artifact. Raises InvalidInput for an ONNX that would have files of this machine read."""
        path = self._store.path(artifact.blob)
        if artifact.form != Form.FORM_PT2 and (elsewhere := external_locations(path)):
            raise InvalidInput(
                f"the artifact keeps weights in another file, {elsewhere[0]!r}: it must hold them itself"
            )
        return path

    def _job(self, request: pb.BuildEngineRequest, report: Callable[[float], None]) -> Job:
        artifact, calibration = request.artifact, None
        if artifact.HasField("calibration"):
            calibration = load_inputs(self._store, artifact.calibration, request.preprocessing)[0]
        return Job(
            artifact=self._artifact(artifact),
            precision=artifact.precision,
            form=artifact.form,
            shape=Shape(batch=request.batch_size, preprocessing=request.preprocessing),
            caches=self._caches / f"build-{request.replicate}",  # a replicate finds its tactics for itself
            calibration=calibration,
            report=report,
        )

    @contextlib.contextmanager
    def _alive(self, stage: str) -> Iterator[Callable[[float], None]]:
        """Tell of long work once in a while, so that whoever no longer wants it can say so; yields `report`."""
        done, fraction = threading.Event(), [0.0]

        def beat() -> None:
            while not done.wait(PROGRESS_SECONDS):
                self._send(WorkerReply(progress=Progress(stage=stage, fraction=fraction[0])))

        thread = threading.Thread(target=beat)
        thread.start()
        try:
            yield lambda value: fraction.__setitem__(0, value)
        finally:
            done.set()
            thread.join()

    @staticmethod
    def _device_memory(engine: pb.Engine) -> int | None:
        return gpu.memory_in_use() if _on_gpu(engine) else None

    @staticmethod
    def _gpu_reading(engine: pb.Engine, seconds: float) -> list[pb.GpuReading]:
        """One reading where the engine runs on a GPU that NVML knows."""
        return [gpu.reading(seconds)] if _on_gpu(engine) else []

    @staticmethod
    def _gpu_environment(engine: pb.Engine) -> dict[str, str]:
        return gpu.environment() if _on_gpu(engine) else {}

    def _progress(self, stage: str, fraction: float) -> None:
        """Tell how far it is, rarely: every message wakes processes that share the machine."""
        if time.monotonic() - self._told < PROGRESS_SECONDS:
            return
        self._told = time.monotonic()
        self._send(WorkerReply(progress=Progress(stage=stage, fraction=fraction)))


@contextlib.contextmanager
def _libraries_errors(what: str) -> Iterator[None]:
    """An engine that a library cannot load or run is a failure with the library's own words."""
    try:
        yield
    except (PqbenchError, MemoryError):
        raise
    except Exception as error:  # libraries' own share no root
        raise Failed(f"{what}: {first_line(error)}") from error


def _count(settings: pb.MeasureSettings) -> int:
    """The instances of an engine that work at the same time."""
    single = settings.scenario in (pb.SCENARIO_UNSPECIFIED, pb.SCENARIO_SINGLE_STREAM)
    return 1 if single else max(1, settings.concurrency)


def _on_gpu(engine: pb.Engine) -> bool:
    return bool(getattr(BACKENDS.load(engine.backend), "ON_GPU", False))


def _growth(before: int | None, after: int | None) -> int | None:
    return after - before if before is not None and after is not None and after > before else None


def _together(parts: Iterable[int | None]) -> int | None:
    """The sum; None where a part is not known."""
    known = list(parts)
    return sum(part for part in known if part is not None) if None not in known else None


def _archive(samples: Sequence[timing.Samples]) -> bytes:
    """All raw samples as .npz, as MeasureResult says."""
    arrays: dict[str, np.ndarray] = {}
    for index, own in enumerate(samples):
        arrays[f"latency_{index}"] = np.asarray(own.latency)
        arrays[f"start_{index}"] = np.asarray(own.start)
        arrays[f"block_{index}"] = np.asarray(own.block, np.int32)
        arrays |= {f"{part}_{index}": np.asarray(values) for part, values in own.device.items()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def executed_precisions(built: Built) -> dict[str, int]:
    """How many compute layers run in each precision."""
    counts: dict[str, int] = {}
    for layer in built.layers:
        if layer.compute:
            counts[layer.precision] = counts.get(layer.precision, 0) + 1
    return counts


def _check_precision(executed: dict[str, int], route: Route, backend: str) -> None:
    """An engine that silently runs in another precision would be a wrong number.

    What a tool's own placement comes to is a finding, reported with the cell, and not an error.
    """
    names = {Precision.Name(p).removeprefix("PRECISION_") for p in route.executes}
    wanted = Precision.Name(route.precision).removeprefix("PRECISION_").removesuffix("_DYNAMIC")
    found = ", ".join(f"{count} in {name}" for name, count in sorted(executed.items())) or "none found"
    if set(executed) - names - {UNKNOWN}:
        raise PrecisionMismatch(f"{backend} was asked for {wanted}; its compute layers run: {found}")
    if route.demanded and not executed.keys() & {wanted, UNKNOWN}:
        raise PrecisionMismatch(f"{backend} was asked for {wanted} and runs no compute layer in it: {found}")


def _feed(tensors: Iterable[Tensor], engine: pb.Engine) -> Feed:
    arrays = {t.name: np.frombuffer(t.data, t.dtype).reshape(tuple(t.shape)).copy() for t in tensors}
    return Inputs(arrays) if engine.preprocessing.inputs else next(iter(arrays.values()))


def _padded(images: Feed, size: int) -> Feed:
    """`size` images: those given, repeated as often as it takes."""
    if not len(images):
        raise InvalidInput("the prepared split has no images")
    if isinstance(images, Inputs):
        return Inputs({name: np.resize(array, (size, *array.shape[1:])) for name, array in images.arrays.items()})
    return images if len(images) == size else np.resize(images, (size, *images.shape[1:]))


def main() -> None:
    """Serve requests from the pipe until it ends."""
    answer(lambda send: Worker(BlobStore(Path(sys.argv[4])), send), WorkerRequest, WorkerReply)


if __name__ == "__main__":
    main()
