"""The engines that this runtime has built, by the names under which inference clients find them."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from pathlib import Path

from google.protobuf.message import DecodeError

from pqbench.runtime.v1.runtime_pb2 import Engine
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import NotFound
from pqbench_wire.results import canonical

log = logging.getLogger(__name__)


class Engines:
    """The list of built engines, kept in `folder` with one file for each, so that it outlives the service."""

    def __init__(self, folder: Path, store: BlobStore) -> None:
        self._folder, self._store, self._lock = folder, store, threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        found = {path.name: _read(path) for path in folder.iterdir() if not path.name.startswith(".")}
        self._engines = {name: engine for name, engine in found.items() if engine is not None}

    def add(self, engine: Engine) -> str:
        """Add an engine to the list; returns its name, which is equal for equal engines."""
        name = f"{engine.backend}-{hashlib.sha256(canonical(engine)).hexdigest()[:16]}"
        with self._lock:
            self._folder.mkdir(parents=True, exist_ok=True)  # it may have been cleaned away
            partial = self._folder / f".{name}.{os.getpid()}"
            partial.write_bytes(canonical(engine))
            partial.replace(self._folder / name)
            self._engines[name] = engine
        return name

    def names(self) -> list[str]:
        """The names of the engines whose blobs are still in the store, sorted."""
        with self._lock:
            return sorted(name for name, engine in self._engines.items() if self._store.has(engine.blob))

    def get(self, name: str) -> Engine:
        """The engine with this name. Raises NotFound for an unknown name, and where the engine's blob is gone."""
        with self._lock:
            engine = self._engines.get(name)
        if engine is None or not self._store.has(engine.blob):
            raise NotFound(f"no engine is called {name!r}; BuildEngine makes them, RepositoryIndex lists them")
        return engine


def _read(path: Path) -> Engine | None:
    """An engine's entry; None for a damaged file, which is replaced when the engine is built again."""
    try:
        return Engine.FromString(path.read_bytes())
    except (DecodeError, OSError) as error:
        log.warning("%s cannot be read: %s", path, error)
        return None
