"""BlobService: a blob store behind gRPC."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import grpc

from pqbench.blob.v1 import blob_pb2, blob_pb2_grpc
from pqbench_wire.blobs import CHUNK, BlobStore
from pqbench_wire.errors import BlobCorrupt, InvalidInput, TooLarge

MAX_BLOB = 16 << 30  # bytes


class BlobServicer(blob_pb2_grpc.BlobServiceServicer):
    """Serves a blob store: which blobs are missing, and writing and reading blobs in chunks."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store

    def FindMissing(
        self, request: blob_pb2.FindMissingRequest, context: grpc.ServicerContext
    ) -> blob_pb2.FindMissingResponse:
        return blob_pb2.FindMissingResponse(blobs=[b for b in request.blobs if not self.store.has(b)])

    def Write(
        self, request_iterator: Iterable[blob_pb2.WriteRequest], context: grpc.ServicerContext
    ) -> blob_pb2.WriteResponse:
        requests = iter(request_iterator)
        first = next(requests, None)
        if first is None or not first.HasField("blob"):
            raise InvalidInput("Write: the first message must name the blob")
        if first.blob.size > MAX_BLOB:
            raise TooLarge(f"Write: {first.blob.size} bytes is over the limit of {MAX_BLOB}")
        with self.store.writer(expected=first.blob) as out:
            out.write(first.chunk)
            for request in requests:
                if out.size + len(request.chunk) > first.blob.size:
                    raise BlobCorrupt(f"Write: more than the announced {first.blob.size} bytes")
                out.write(request.chunk)
        return blob_pb2.WriteResponse()

    def Read(self, request: blob_pb2.ReadRequest, context: grpc.ServicerContext) -> Iterator[blob_pb2.ReadResponse]:
        with self.store.path(request.blob).open("rb") as file:
            while chunk := file.read(CHUNK):
                yield blob_pb2.ReadResponse(chunk=chunk)
