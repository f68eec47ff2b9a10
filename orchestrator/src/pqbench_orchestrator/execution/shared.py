"""A store that several machines share: results of deterministic steps with their blobs, in a folder or a bucket."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from pqbench.common.v1.common_pb2 import Blob
from pqbench_orchestrator.steps.step import blobs_of
from pqbench_orchestrator.store.database import digest_of_text
from pqbench_orchestrator.store.step_cache import Entry, StepCache
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import BlobCorrupt, InvalidInput, NotFound, Unavailable, first_line

FILE_SCHEME = "file://"
AWAY_SECONDS = 60.0  # for which a store that could not be reached is not asked again
MARKS = "marks"  # objects without content; one is written when a store is opened, so that it is found to be writable
ADVICE = "write a folder as file:///folder, a bucket as s3://bucket/folder (docs/scaling.md)"
RETRIES = {"max_retries": 3, "retry_timeout": timedelta(minutes=3)}
TIMEOUTS = {"connect_timeout": "10s", "read_timeout": "2m", "timeout": "1h"}  # of the beginning, a part, a whole blob
# The library's own environment variables, which its other options would hide.
FLAGS = {"allow_http": "AWS_ALLOW_HTTP", "allow_invalid_certificates": "AWS_ALLOW_INVALID_CERTIFICATES"}
YES = ("1", "true", "on", "yes", "y")
Result = TypeVar("Result")


class SharedStore:
    """The store at a URL; blobs are `blobs/ab/abcdef…`, as in a `BlobStore`, and a step's result is `steps/KEY.json`.

    A result appears after its blobs. Digests find what is damaged; who can write to the store can replace results.
    Methods raise Unavailable while it cannot be reached.
    """

    def __init__(self, url: str) -> None:
        """Open it, and write to it. Raises InvalidInput, which names --store."""
        try:
            from obstore.store import from_url
        except ImportError:
            raise InvalidInput("--store needs a library: pip install 'pqbench-orchestrator[store]'") from None
        self.url = url
        client = TIMEOUTS | {name: os.environ.get(flag, "").lower() in YES for name, flag in FLAGS.items()}
        options: dict[str, Any] = {"retry_config": RETRIES, "client_options": client}
        try:
            self._objects: Any = from_url(url, **({"mkdir": True} if url.startswith(FILE_SCHEME) else options))
            self._objects.put(f"{MARKS}/opened", b"")
        except Exception as error:  # the library raises what its own back ends raise
            raise InvalidInput(f"--store {url} cannot be used: {first_line(error)}; {ADVICE}") from error

    def mark(self, name: str) -> None:
        """Leave a mark, by which another machine sees that this is the same store."""
        with self._reached():
            self._objects.put(f"{MARKS}/{name}", b"")

    def remove_mark(self, name: str) -> None:
        """Remove a mark, if it is there."""
        with self._reached(), contextlib.suppress(FileNotFoundError):
            self._objects.delete(f"{MARKS}/{name}")

    def has_mark(self, name: str) -> bool:
        """Whether there is such a mark."""
        return self._size(f"{MARKS}/{name}") == 0

    def has(self, key: str) -> bool:
        """Whether the result of a step is here."""
        return self._size(_place(key)) > 0

    def entry(self, key: str) -> Entry | None:
        """A step's result; None where it is not here. Raises ValueError or TypeError for a damaged one."""
        sealed = b""
        with self._reached(), contextlib.suppress(FileNotFoundError):
            sealed = bytes(self._objects.get(_place(key)).bytes())
        if not sealed:
            return None
        text, _, digest = sealed.decode().rpartition("\n")
        if digest != digest_of_text(text):
            raise ValueError("its digest is another")
        return Entry(**json.loads(text))

    def keep(self, key: str, entry: Entry, blobs: BlobStore) -> None:
        """Store a step's result, and before it those of its blobs that are not here."""
        self.push(blobs_of(entry.result), blobs)
        text = json.dumps(entry._asdict())
        with self._reached():
            self._objects.put(_place(key), f"{text}\n{digest_of_text(text)}".encode())

    def push(self, wanted: Iterable[Blob], blobs: BlobStore) -> None:
        """Store those blobs of `blobs` that are not here. Raises BlobCorrupt and NotFound as `BlobStore.path`."""
        for blob in wanted:
            if self._size(_place_of(blob)) != blob.size:
                file = blobs.path(blob)
                with self._reached():
                    self._objects.put(_place_of(blob), file)

    def pull(self, wanted: Iterable[Blob], blobs: BlobStore) -> None:
        """Copy the wanted blobs into `blobs`. Raises BlobCorrupt for one that is missing, or damaged and removed."""
        for blob in wanted:
            if not blobs.has(blob):
                self._pull(blob, blobs)

    def _pull(self, blob: Blob, blobs: BlobStore) -> None:
        place = _place_of(blob)
        if (size := self._size(place)) != blob.size:
            raise BlobCorrupt(f"blob {blob.sha256} of {blob.size} bytes {'is missing' if size < 0 else 'is damaged'}")
        try:
            with blobs.writer(blob) as out:
                for chunk in self._chunks(place):
                    out.write(memoryview(chunk))
        except BlobCorrupt:
            with self._reached(), contextlib.suppress(FileNotFoundError):
                self._objects.delete(place)  # one of the right size would never be replaced
            raise

    def _chunks(self, place: str) -> Iterator[Any]:
        try:
            with self._reached():
                yield from self._objects.get(place)
        except Unavailable as error:
            if isinstance(error.__cause__, FileNotFoundError):  # another machine found it damaged, and removed it
                raise BlobCorrupt(f"{place} is missing") from error
            raise

    def _size(self, place: str) -> int:
        """The size of an object in bytes; -1 for one that is not here."""
        with self._reached(), contextlib.suppress(FileNotFoundError):
            return int(self._objects.head(place)["size"])
        return -1

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the library raises what its own back ends raise
            raise Unavailable(f"the store {self.url} cannot be reached: {first_line(error)}") from error


class SharedStepCache(StepCache):
    """A step cache in front of a shared store: what is not here is looked up there, and what is here is kept there too.

    While the store cannot be reached, the run goes on without it; `note` is called with one line that says so.
    """

    def __init__(self, path: Path, note: Callable[[str], None], shared: SharedStore, blobs: BlobStore) -> None:
        super().__init__(path, note)
        self._note, self._shared, self._blobs = note, shared, blobs
        self._away_until = 0.0  # by time.monotonic

    def get(self, key: str) -> dict[str, Any] | None:
        """The result of a step, with its blobs, or None."""
        entry = self.entry(key)
        if entry is not None and all(self._blobs.has(blob) for blob in blobs_of(entry.result)):
            self._tried(lambda: None if self._shared.has(key) else self._keep(key, entry))
            return entry.result
        return self._tried(lambda: self._from_store(key))

    def put(self, key: str, kind: str, result: dict[str, Any], seconds: float) -> None:
        """Keep a step's result, in place of an earlier one."""
        super().put(key, kind, result, seconds)
        self._tried(lambda: self._keep(key, Entry(kind, result, seconds)))

    def _keep(self, key: str, entry: Entry) -> None:
        try:
            self._shared.keep(key, entry, self._blobs)
        except (BlobCorrupt, NotFound, OSError) as error:  # the next step that uses the blob finds it too
            self._note(f"note: the result of step {key} is not shared: {error}")

    def _from_store(self, key: str) -> dict[str, Any] | None:
        """A result that another machine stored, with its blobs; None where there is none, or not as it should be."""
        try:
            entry = self._shared.entry(key)
            if entry is None:
                return None
            self._shared.pull(blobs_of(entry.result), self._blobs)
        except (BlobCorrupt, OSError) as error:
            self._note(f"note: {self._shared.url}: {error}: it is made again")
            return None
        except (ValueError, TypeError, KeyError, OverflowError, InvalidInput) as error:
            reason = first_line(error)
            self._note(f"note: {self._shared.url}: the result of step {key} is damaged ({reason}): it is made again")
            return None
        super().put(key, *entry)
        return entry.result

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
