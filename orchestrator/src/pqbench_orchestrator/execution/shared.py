"""A store that several machines share: results of deterministic steps with their blobs, in a folder or a bucket."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from pqbench.common.v1.common_pb2 import Blob
from pqbench_orchestrator.steps.step import blobs_of
from pqbench_orchestrator.store.database import digest_of_text
from pqbench_orchestrator.store.step_cache import StepCache
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import BlobCorrupt, InvalidInput, Unavailable, first_line

LOCAL = "file://"
AWAY_SECONDS = 60.0  # for which a store that could not be reached is not asked again
MARK = "pqbench.txt"  # written when a store is opened: a store that cannot be written is found before any work
Result = TypeVar("Result")
ADVICE = "write a folder as file:///folder, a bucket as s3://bucket/folder (docs/scaling.md)"


class SharedStore:
    """The store at a URL; blobs are `blobs/ab/abcdef…`, as in a `BlobStore`, and a step's result is `steps/KEY.json`.

    A result appears after its blobs, and carries a digest. Methods raise Unavailable while the store cannot be reached.
    """

    def __init__(self, url: str) -> None:
        """Open it, and write to it. Raises InvalidInput, which names --store."""
        try:
            from obstore.store import from_url
        except ImportError:
            raise InvalidInput("--store needs a library: pip install 'pqbench-orchestrator[store]'") from None
        self.url = url
        patience: dict[str, Any] = {"max_retries": 3, "retry_timeout": timedelta(seconds=10)}
        options: dict[str, Any] = {"mkdir": True} if url.startswith(LOCAL) else {"retry_config": patience}
        try:
            self._objects: Any = from_url(url, **options)
            self._objects.put(MARK, b"A store of pqbench.\n")
        except Exception as error:  # the library raises what its own back ends raise
            raise InvalidInput(f"--store {url} cannot be used: {first_line(error)}; {ADVICE}") from error

    def result(self, key: str) -> tuple[str, dict[str, Any], float] | None:
        """Kind, result and seconds of a step; None where it is not here, or damaged."""
        text, _, digest = (self._read(_place(key)) or b"").decode(errors="replace").rpartition("\n")
        if not text or digest != digest_of_text(text):
            return None
        found = json.loads(text)
        return found["kind"], found["result"], found["seconds"]

    def keep(self, key: str, kind: str, result: dict[str, Any], seconds: float, blobs: BlobStore) -> None:
        """Store a step's result, and before it those of its blobs that are not here."""
        self.push(blobs_of(result), blobs)
        text = json.dumps({"kind": kind, "result": result, "seconds": seconds})
        with self._reached():
            self._objects.put(_place(key), f"{text}\n{digest_of_text(text)}".encode())

    def push(self, wanted: Iterable[Blob], blobs: BlobStore) -> None:
        """Store those blobs of `blobs` that are not here."""
        for blob in wanted:
            if self._size(blob) != blob.size:
                file = blobs.path(blob)
                with self._reached():
                    self._objects.put(_place_of(blob), file)

    def pull(self, wanted: Iterable[Blob], blobs: BlobStore) -> None:
        """Copy the wanted blobs into `blobs`. Raises BlobCorrupt for one that is missing, or damaged and removed."""
        for blob in wanted:
            if not blobs.has(blob):
                self._pull(blob, blobs)

    def _pull(self, blob: Blob, blobs: BlobStore) -> None:
        content = self._read(_place_of(blob)) or b""
        try:
            with blobs.writer(blob) as out:
                out.write(content)
        except BlobCorrupt:
            if content:  # a damaged one of the right size would never be replaced
                with self._reached(), contextlib.suppress(FileNotFoundError):
                    self._objects.delete(_place_of(blob))
            raise

    def _size(self, blob: Blob) -> int:
        with self._reached(), contextlib.suppress(FileNotFoundError):
            return int(self._objects.head(_place_of(blob))["size"])
        return -1

    def _read(self, place: str) -> bytes | None:
        with self._reached(), contextlib.suppress(FileNotFoundError):
            return bytes(self._objects.get(place).bytes())
        return None

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the library raises what its own back ends raise
            raise Unavailable(f"the store {self.url} cannot be reached: {first_line(error)}") from error


class SharedStepCache(StepCache):
    """A step cache in front of a shared store: what is not here is looked up there, and what is kept is kept there too.

    While the store cannot be reached, the run goes on without it; `note` is called with one line that says so.
    """

    def __init__(self, path: Path, note: Callable[[str], None], shared: SharedStore, blobs: BlobStore) -> None:
        super().__init__(path, note)
        self._note, self._shared, self._blobs = note, shared, blobs
        self._away_until = 0.0  # by time.monotonic

    def get(self, key: str) -> dict[str, Any] | None:
        """The result of a step, with its blobs, or None."""
        result = super().get(key)
        if result is not None and all(self._blobs.has(blob) for blob in blobs_of(result)):
            return result
        return self._tried(lambda: self._from_store(key))

    def put(self, key: str, kind: str, result: dict[str, Any], seconds: float) -> None:
        """Keep a step's result, in place of an earlier one."""
        super().put(key, kind, result, seconds)
        self._tried(lambda: self._shared.keep(key, kind, result, seconds, self._blobs))

    def _from_store(self, key: str) -> dict[str, Any] | None:
        found = self._shared.result(key)
        if found is None:
            return None
        kind, result, seconds = found
        try:
            self._shared.pull(blobs_of(result), self._blobs)
        except BlobCorrupt as error:  # the step is done again, and stores its blobs anew
            self._note(f"note: {self._shared.url}: {error}: it is made again")
            return None
        super().put(key, kind, result, seconds)
        return result

    def _tried(self, call: Callable[[], Result]) -> Result | None:
        """What a call to the store returns; None while it cannot be reached, which is noted once."""
        if time.monotonic() < self._away_until:
            return None
        try:
            return call()
        except Unavailable as error:
            if not self._away_until:
                self._note(f"note: {error}; the run goes on, and puts its blobs there at its end")
            self._away_until = time.monotonic() + AWAY_SECONDS
            return None


def _place(key: str) -> str:
    return f"steps/{key}.json"


def _place_of(blob: Blob) -> str:
    return f"blobs/{blob.sha256[:2]}/{blob.sha256}"
