"""Loads engines in a worker process and keeps them loaded, side by side."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pqbench.common.v1.common_pb2 import Precision
from pqbench.runtime.v1 import runtime_pb2 as pb
from pqbench_runtime import gpu, host
from pqbench_runtime.backend import BACKENDS, Session, Shape, engine_identity
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import Failed, PqbenchError, Refused, first_line
from pqbench_wire.results import canonical

MAX_ENGINES = 8  # most engines kept loaded; the least recently used is unloaded first
MAX_HELD = 4 << 30  # most bytes of engine files kept loaded; a single engine may be larger


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """One loaded instance of an engine, and what loading it took."""

    session: Session
    size: int  # bytes of the engine's file
    seconds: float  # to load it, without the first call
    first_call: float  # seconds
    memory: int | None  # bytes by which the process grew; None where memory freed earlier was enough
    device_memory: int | None  # bytes by which the board's memory in use grew; None where it did not, or on a CPU


class LoadedEngines:
    """Loads engines from the blobs of a store and keeps them for later requests."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._loaded: dict[tuple[bytes, int, int], Loaded] = {}  # by engine, instance, number of instances

    def loadable(self, engine: pb.Engine, instances: int = 1) -> tuple[Any, tuple[Path, Precision, Shape, Any]]:
        """An engine's backend and the arguments of its `load`: file, precision, shape and options.

        Raises Refused where the engine was built on another device or with other library versions.
        """
        backend = BACKENDS.load(engine.backend)
        options = BACKENDS.configure(engine.backend, engine.options_json)
        if engine.built_on and engine.built_on != (here := engine_identity(backend, options)):
            raise Refused(f"this engine was built on {engine.built_on}; this is {here}: build it again")
        shape = Shape(batch=engine.batch_size, preprocessing=engine.preprocessing, instances=instances)
        return backend, (self._store.path(engine.blob), engine.precision, shape, options)

    def load(self, engine: pb.Engine, instance: int = 0, instances: int = 1) -> Loaded:
        """Load one of an engine's `instances` and call it once with zeros; one that is loaded already is returned.

        Raises Failed where the library cannot load or run it.
        """
        key = (canonical(engine), instance, instances)
        if key not in self._loaded:
            while instances == 1 and self._is_full(engine.blob.size):  # a measurement needs all its instances at once
                del self._loaded[next(iter(self._loaded))]
                gc.collect()
            backend, arguments = self.loadable(engine, instances)
            device_before = _device_memory(engine)
            before, begin = host.memory(), time.perf_counter()
            with _library_errors(f"{engine.backend} cannot run this engine"):
                session = backend.load(*arguments)
                loaded = time.perf_counter()
                session.bind(arguments[2].zeros())()  # what the first call allocates counts as the engine's memory
            called = time.perf_counter()
            self._loaded[key] = Loaded(
                session=session,
                size=engine.blob.size,
                seconds=loaded - begin,
                first_call=called - loaded,
                memory=_growth(before, host.memory()),
                device_memory=_growth(device_before, _device_memory(engine)),
            )
        self._loaded[key] = entry = self._loaded.pop(key)
        return entry

    def _is_full(self, size: int) -> bool:
        """Whether an engine must be unloaded before one whose file has `size` bytes can be loaded."""
        held = sum(one.size for one in self._loaded.values())
        return bool(self._loaded) and (len(self._loaded) >= MAX_ENGINES or held + size > MAX_HELD)

    def unload_others(self, engines: Iterable[pb.Engine], instances: int) -> None:
        """Unload all but these engines in this number of instances: the memory of others would count as theirs."""
        wanted = {canonical(engine) for engine in engines}
        for key in [key for key in self._loaded if key[0] not in wanted or key[2] != instances]:
            del self._loaded[key]
        gc.collect()

    def instances(self, engine: pb.Engine, settings: pb.MeasureSettings) -> list[Loaded]:
        """Load as many instances of an engine as the scenario runs at the same time."""
        instances = instances_of(settings)
        return [self.load(engine, instance, instances) for instance in range(instances)]


def instances_of(settings: pb.MeasureSettings) -> int:
    """How many instances of an engine run at the same time: 1 in single stream, otherwise `concurrency`."""
    single = settings.scenario in (pb.SCENARIO_UNSPECIFIED, pb.SCENARIO_SINGLE_STREAM)
    return 1 if single else max(1, settings.concurrency)


def on_gpu(engine: pb.Engine) -> bool:
    """Whether an engine's backend runs on a GPU."""
    return bool(getattr(BACKENDS.load(engine.backend), "ON_GPU", False))


def _device_memory(engine: pb.Engine) -> int | None:
    return gpu.memory_in_use() if on_gpu(engine) else None


def _growth(before: int | None, after: int | None) -> int | None:
    return after - before if before is not None and after is not None and after > before else None


@contextlib.contextmanager
def _library_errors(what: str) -> Iterator[None]:
    """Raise a library's exception as Failed, with its first line; pqbench's own errors and MemoryError pass."""
    try:
        yield
    except (PqbenchError, MemoryError):
        raise
    except Exception as error:  # the libraries' exceptions have no other base class in common
        raise Failed(f"{what}: {first_line(error)}") from error
