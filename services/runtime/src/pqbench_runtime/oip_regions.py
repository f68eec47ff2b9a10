"""Clients' shared memory, by the names under which they registered it: Triton's extension system_shared_memory."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from urllib.parse import unquote

import grpc
import numpy as np

from pqbench.inference import open_inference_pb2 as pb
from pqbench.runtime.v1.worker_pb2 import Tensor
from pqbench_runtime.memory import open_region, size_of
from pqbench_wire.errors import InvalidInput, NotFound, Refused
from pqbench_wire.server import is_loopback

Given = pb.ModelInferRequest.InferInputTensor | pb.ModelInferRequest.InferRequestedOutputTensor
MOST = 1024  # regions at a time
PARAMETERS = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")  # of an input or output


@dataclass(frozen=True)
class Region:
    """A part of POSIX shared memory."""

    file: str  # in /dev/shm
    offset: int  # bytes
    size: int  # bytes


class Regions:
    """What clients registered."""

    def __init__(self) -> None:
        self._regions: dict[str, Region] = {}
        self._lock = threading.Lock()

    def add(self, request: pb.SystemSharedMemoryRegisterRequest, context: grpc.ServicerContext) -> None:
        """Register a region.

        Raises InvalidInput for a name that is taken and for memory that is not there, Refused for clients elsewhere.
        """
        if not _is_local(context.peer()):
            raise Refused("shared memory is for clients that reach this service over loopback")
        file = request.key.removeprefix("/")
        if not request.name or not file or "/" in file or file in (".", ".."):
            raise InvalidInput(f"a region has a name, and a key like '/name'; given: {request.name!r}, {request.key!r}")
        descriptor = open_region(file)
        size = os.fstat(descriptor).st_size
        os.close(descriptor)
        if not 0 < request.byte_size <= size - request.offset:
            raise InvalidInput(f"{request.key} has {size} bytes, not {request.offset} + {request.byte_size}")
        with self._lock:
            if request.name in self._regions:
                raise InvalidInput(f"a region is registered as {request.name!r} already: unregister it first")
            if len(self._regions) == MOST:
                raise InvalidInput(f"{MOST} regions are registered, the most: unregister one first")
            self._regions[request.name] = Region(file, request.offset, request.byte_size)

    def remove(self, name: str) -> None:
        """Forget a region, or all; one that is not registered is no error, as in Triton."""
        with self._lock:
            if name:
                self._regions.pop(name, None)
            else:
                self._regions.clear()

    def status(self, name: str) -> pb.SystemSharedMemoryStatusResponse:
        """One region or all. Raises NotFound."""
        with self._lock:
            wanted = {name: self._regions.get(name)} if name else dict(self._regions)
        response = pb.SystemSharedMemoryStatusResponse()
        for one, region in wanted.items():
            if region is None:
                raise NotFound(f"no region is registered as {one!r}")
            own = response.regions[one]
            own.name, own.key, own.offset, own.byte_size = one, f"/{region.file}", region.offset, region.size
        return response

    def placed(self, tensor: Tensor, given: Given) -> Tensor:
        """`tensor` in the region that a request's input or output names. Raises InvalidInput where it does not fit."""
        name, parameters = given.parameters["shared_memory_region"].string_param, given.parameters
        offset = parameters["shared_memory_offset"].int64_param if "shared_memory_offset" in parameters else 0
        size = parameters["shared_memory_byte_size"].int64_param if "shared_memory_byte_size" in parameters else 0
        region, needed = self._regions.get(name), size_of(tensor)
        if region is None:
            raise InvalidInput(f"{given.name}: no region is registered as {name!r}")
        if size < needed:
            raise InvalidInput(f"{given.name} is {needed} bytes, shared_memory_byte_size says {size}")
        if not 0 <= offset <= region.size - needed:
            raise InvalidInput(f"{given.name}: {needed} bytes from {offset} on are not within the region {name!r}")
        begin = region.offset + offset
        if begin % np.dtype(tensor.dtype).itemsize:
            raise InvalidInput(f"{given.name}: {tensor.dtype} does not begin at byte {begin} of {region.file}")
        return Tensor(name=tensor.name, dtype=tensor.dtype, shape=tensor.shape, region=region.file, offset=begin)


def is_shared(given: Given) -> bool:
    """Whether a request's input or output is in a region."""
    return "shared_memory_region" in given.parameters


def _is_local(peer: str) -> bool:
    """Whether gRPC's name of a client, as ipv4:127.0.0.1:40000 or ipv6:%5B::1%5D:40000, is on this machine."""
    kind, _, address = unquote(peer).partition(":")
    return kind == "unix" or is_loopback(address)
