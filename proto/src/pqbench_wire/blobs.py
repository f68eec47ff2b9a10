"""Content-addressed storage: a folder of files named by their SHA-256.

Processes that share the folder copy nothing: what one stores, the others find. Processes that do not
share it send blobs in chunks, and each side verifies the digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from google.protobuf import json_format

from pqbench.common.v1.common_pb2 import Blob
from pqbench_wire.errors import BlobCorrupt, InvalidInput, NotFound

CHUNK = 1 << 20  # bytes
SHA256 = re.compile("[0-9a-f]{64}")


class BlobStore:
    """Blobs in one folder, as `ab/abcdef…`. Safe for any number of processes: a file appears when complete.

    A blob is verified when a process first uses it, and again when its file's size or time has changed since.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._verified: dict[str, tuple[int, int]] = {}  # SHA-256 -> size and time of the file that had it
        root.mkdir(parents=True, exist_ok=True)

    def path(self, blob: Blob) -> Path:
        """The file of a stored blob, verified.

        Raises NotFound if it is not here, and BlobCorrupt if it is damaged: the file is then removed, because a blob
        can always be created or sent again.
        """
        path = self._place(blob.sha256)
        if not self.has(blob):
            raise NotFound(f"blob {blob.sha256} ({blob.size} bytes) is not in {self.root}")
        state = _state(path)
        if self._verified.get(blob.sha256) != state:
            try:
                _verify(blob, blob_of(path).sha256, state[0])
            except BlobCorrupt:
                with contextlib.suppress(OSError):  # the store may be read-only
                    path.unlink(missing_ok=True)
                raise
            self._verified[blob.sha256] = state
        return path

    def has(self, blob: Blob) -> bool:
        """Whether a file of this name and size is here; its content is verified when it is used."""
        try:
            found = self._place(blob.sha256).stat()
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size == blob.size

    def read(self, blob: Blob) -> bytes:
        """The blob's bytes. Raises as `path`."""
        return self.path(blob).read_bytes()

    @contextlib.contextmanager
    def writer(self, expected: Blob | None = None) -> Iterator[BlobWriter]:
        """A file to write, stored on exit as the blob `writer.blob`. Raises BlobCorrupt if that is not `expected`."""
        handle, name = tempfile.mkstemp(dir=self.root, prefix=".partial-")
        try:
            with os.fdopen(handle, "wb") as file:
                writer = BlobWriter(file)
                yield writer
            writer.blob = Blob(sha256=writer.digest.hexdigest(), size=writer.size)
            if expected is not None:
                _verify(expected, writer.blob.sha256, writer.size)
            place = self._place(writer.blob.sha256)
            place.parent.mkdir(exist_ok=True)
            Path(name).chmod(0o644)
            Path(name).replace(place)
            self._verified[writer.blob.sha256] = _state(place)
        finally:
            Path(name).unlink(missing_ok=True)

    def put(self, data: bytes) -> Blob:
        """Store bytes; returns their blob."""
        with self.writer() as out:
            out.write(data)
        return out.blob

    def put_file(self, path: Path) -> Blob:
        """Store a copy of a file; returns its blob."""
        with self.writer() as out, path.open("rb") as source:
            while chunk := source.read(CHUNK):
                out.write(chunk)
        return out.blob

    def put_array(self, array: np.ndarray) -> Blob:
        """Store an array in NumPy's .npy format; returns its blob."""
        with self.writer() as out:
            np.save(out, array, allow_pickle=False)
        return out.blob

    def array(self, blob: Blob) -> np.ndarray:
        """A stored .npy array, memory-mapped and read-only. Raises InvalidInput if the blob is not one."""
        try:
            return np.load(self.path(blob), mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise InvalidInput(f"blob {blob.sha256} is not a .npy array: {error}") from error

    def array_of(self, stored: dict[str, Any]) -> np.ndarray:
        """The array of a blob that is given in protobuf's JSON form, as results are stored."""
        return self.array(json_format.ParseDict(stored, Blob()))

    def archive(self, blob: Blob) -> dict[str, np.ndarray]:
        """The arrays of a stored .npz file, by name."""
        with np.load(self.path(blob), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def _place(self, sha256: str) -> Path:
        if not SHA256.fullmatch(sha256):
            raise InvalidInput(f"not a SHA-256 in lower-case hexadecimal: {sha256[:80]!r}")
        return self.root.joinpath(sha256[:2], sha256)


class BlobWriter:
    """A binary file that hashes what is written; `BlobStore.writer` sets `blob` on exit."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0
        self.blob = Blob()

    def write(self, chunk: bytes | memoryview) -> int:
        """Append a chunk; returns its length in bytes."""
        view = memoryview(chunk).cast("B")
        self.digest.update(view)
        self.size += len(view)
        return self._file.write(view)


def _verify(expected: Blob, sha256: str, size: int) -> None:
    if (expected.sha256, expected.size) != (sha256, size):
        raise BlobCorrupt(
            f"damaged: blob {expected.sha256} of {expected.size} bytes has {size} bytes with SHA-256 {sha256}"
        )


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def blob_of(path: Path) -> Blob:
    """The SHA-256 and size of a file, as a Blob."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return Blob(sha256=digest.hexdigest(), size=size)
