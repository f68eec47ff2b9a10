"""The engines that this runtime has built, by the names under which inference clients find them."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

from pqbench.runtime.v1.runtime_pb2 import Engine
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import NotFound
from pqbench_wire.jobs import canonical


class Engines:
    """Kept in `folder`, one file an engine, so that they outlive the service."""

    def __init__(self, folder: Path, store: BlobStore) -> None:
        self._folder, self._store, self._lock = folder, store, threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._engines = {path.name: _read(path) for path in folder.iterdir() if not path.name.startswith(".")}

    def add(self, engine: Engine) -> str:
        """Keep an engine; returns its name, which is equal for equal engines."""
        name = f"{engine.backend}-{hashlib.sha256(canonical(engine)).hexdigest()[:16]}"
        with self._lock:
            partial = self._folder / f".{name}.{os.getpid()}"
            partial.write_bytes(canonical(engine))
            partial.replace(self._folder / name)
            self._engines[name] = engine
        return name

    def names(self) -> list[str]:
        """Of the engines whose bytes are still there."""
        with self._lock:
            return sorted(name for name, engine in self._engines.items() if self._store.has(engine.blob))

    def get(self, name: str) -> Engine:
        """Raises NotFound for a name that is none, or whose bytes are gone."""
        if name not in self.names():
            raise NotFound(f"no engine is called {name!r}; BuildEngine makes them, RepositoryIndex lists them")
        return self._engines[name]


def _read(path: Path) -> Engine:
    engine = Engine()
    engine.ParseFromString(path.read_bytes())
    return engine
