"""Memory in which service, worker and clients on this machine share the tensors of an inference, instead of copies."""

from __future__ import annotations

import math
import mmap
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from pqbench.runtime.v1.worker_pb2 import Tensor
from pqbench_wire.errors import InvalidInput, first_line

FOLDER = Path("/dev/shm")  # of POSIX shared memory on Linux  # noqa: S108
ALIGNED = 64  # bytes: tensors begin at multiples of a cache line
GROWS_BY = 1 << 20  # bytes


class OwnMemory:
    """Memory of a service, behind a descriptor that its workers inherit; one inference at a time uses it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._map: mmap.mmap | None = None

    @classmethod
    def create(cls) -> OwnMemory:
        """New memory, without a name that others could find."""
        return cls(os.memfd_create("pqbench-tensors"))

    def array(self, tensor: Tensor) -> np.ndarray:
        """The tensor's values; the memory grows where it ends before the tensor does."""
        return _view(self._mapped(tensor.offset + size_of(tensor)), tensor)

    def put(self, arrays: Mapping[str, np.ndarray]) -> list[Tensor]:
        """Copy arrays to the beginning of the memory; returns where each is."""
        tensors = [Tensor(name=name, dtype=one.dtype.name, shape=one.shape) for name, one in arrays.items()]
        place(tensors, 0)
        for tensor, one in zip(tensors, arrays.values(), strict=True):
            self.array(tensor)[...] = one
        return tensors

    def _mapped(self, end: int) -> mmap.mmap:
        if self._map is None or len(self._map) < end:
            size = max(os.fstat(self.descriptor).st_size, -(-end // GROWS_BY) * GROWS_BY)
            os.ftruncate(self.descriptor, size)
            self._map = mmap.mmap(self.descriptor, size)
        return self._map


class ClientMemory:
    """Memory of clients, files in `FOLDER`, each mapped at its first use, when files that are gone are unmapped."""

    def __init__(self) -> None:
        self._maps: dict[str, tuple[tuple[int, int], mmap.mmap]] = {}  # by name: inode and size, mapped

    def array(self, tensor: Tensor) -> np.ndarray:
        """The tensor's values. Raises InvalidInput where the file is gone, or too small for it."""
        mapped = self._mapped(tensor.region)
        if len(mapped) < tensor.offset + size_of(tensor):
            raise InvalidInput(f"{FOLDER / tensor.region} has {len(mapped)} bytes: too few for {tensor.name}")
        return _view(mapped, tensor)

    def _mapped(self, name: str) -> mmap.mmap:
        descriptor = open_region(name)
        try:
            found = os.fstat(descriptor)
            known, mapped = self._maps.get(name, (None, None))
            if mapped is None or known != (found.st_ino, found.st_size):  # a client made another of that name
                mapped = mmap.mmap(descriptor, found.st_size)
                self._maps = {file: one for file, one in self._maps.items() if (FOLDER / file).exists()}
                self._maps[name] = ((found.st_ino, found.st_size), mapped)
            return mapped
        finally:
            os.close(descriptor)


class AllMemory:
    """The memory of the service and of clients, by a tensor's `region`."""

    def __init__(self, own: OwnMemory) -> None:
        self._own, self._clients = own, ClientMemory()

    def array(self, tensor: Tensor) -> np.ndarray:
        """The tensor's values. Raises InvalidInput where a client's memory is gone, or too small."""
        return self._clients.array(tensor) if tensor.region else self._own.array(tensor)


def open_region(name: str) -> int:
    """A descriptor of a client's memory. Raises InvalidInput where there is none, or none of this user's."""
    try:
        descriptor = os.open(FOLDER / name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidInput(f"shared memory {FOLDER / name}: {first_line(error)}") from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid() or not found.st_size:
        os.close(descriptor)
        raise InvalidInput(f"shared memory {FOLDER / name} is no file of this user with bytes in it")
    return descriptor


def place(tensors: Iterable[Tensor], begin: int) -> None:
    """Set the offsets of tensors in the service's memory, one after the other from `begin` on."""
    for tensor in tensors:
        tensor.offset = -(-begin // ALIGNED) * ALIGNED
        begin = tensor.offset + size_of(tensor)


def end_of(tensors: Iterable[Tensor]) -> int:
    """Where the last tensor in the service's memory ends."""
    return max((tensor.offset + size_of(tensor) for tensor in tensors if not tensor.region), default=0)


def size_of(tensor: Tensor) -> int:
    """Bytes of a tensor."""
    return math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize


def _view(mapped: mmap.mmap, tensor: Tensor) -> np.ndarray:
    return np.ndarray(tuple(tensor.shape), tensor.dtype, mapped, tensor.offset)
