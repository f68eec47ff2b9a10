"""The client side: one channel to a service, a deadline on every call, errors of the tree, blobs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from pqbench.blob.v1 import blob_pb2, blob_pb2_grpc
from pqbench.common.v1.common_pb2 import Blob
from pqbench_wire.blobs import CHUNK, BlobStore
from pqbench_wire.errors import Failed, InvalidInput, Unavailable
from pqbench_wire.server import MAX_MESSAGE
from pqbench_wire.status import from_rpc_error

SHORT = 60.0  # seconds: calls that look something up
LONG = 6 * 3600.0  # seconds: calls that compress, build, measure
TRANSFER = 3600.0  # seconds: one blob

Stub = TypeVar("Stub")
Result = TypeVar("Result")


class Client:
    """A connection to one service at `address` (host:port)."""

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        tls_ca: Path | None = None,
        tls_certificate: Path | None = None,
        tls_key: Path | None = None,
    ) -> None:
        self.address = address
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        options = [("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.max_send_message_length", MAX_MESSAGE)]
        if tls_ca:
            credentials = grpc.ssl_channel_credentials(
                tls_ca.read_bytes(),
                tls_key.read_bytes() if tls_key else None,
                tls_certificate.read_bytes() if tls_certificate else None,
            )
            self.channel = grpc.secure_channel(address, credentials, options)
        else:
            self.channel = grpc.insecure_channel(address, options)
        self._blobs: Any = blob_pb2_grpc.BlobServiceStub(self.channel)

    def wait_ready(self, seconds: float) -> None:
        """Block until connected; raises Unavailable after `seconds`."""
        try:
            grpc.channel_ready_future(self.channel).result(timeout=seconds)
        except grpc.FutureTimeoutError:
            raise Unavailable(f"nothing answers at {self.address} within {seconds:.0f} s") from None

    def call(self, method: Callable[..., Result], request: Message, deadline: float = SHORT) -> Result:
        """One unary call; raises the error tree."""
        with _translated():
            return method(request, timeout=deadline, metadata=self._metadata)

    def stream(self, method: Callable[..., Iterator[Any]], request: Message, deadline: float = LONG) -> Iterator[Any]:
        """The events of a long call; leaving the iteration cancels it."""
        with _translated():
            events = method(request, timeout=deadline, metadata=self._metadata)
            try:
                yield from events
            finally:
                events.cancel()  # type: ignore[attr-defined]

    def result(
        self, method: Callable[..., Iterator[Any]], request: Message, on_event: Callable[[Any], None] = lambda _: None
    ) -> Any:
        """The result of a long call; every other event goes to `on_event`."""
        for event in self.stream(method, request):
            if event.WhichOneof("event") == "result":
                return event.result
            on_event(event)
        raise Failed(f"{self.address} ended the call without a result")

    def push(self, store: BlobStore, blobs: Iterable[Blob]) -> None:
        """Give the service those of `blobs` that it lacks; on a shared directory that is none."""
        wanted = blob_pb2.FindMissingRequest(blobs=[b for b in blobs if b.sha256])
        for blob in self.call(self._blobs.FindMissing, wanted).blobs:
            with _translated():
                self._blobs.Write(_chunks(store, blob), timeout=TRANSFER, metadata=self._metadata)

    def pull(self, store: BlobStore, blobs: Iterable[Blob]) -> None:
        """Fetch those of `blobs` that `store` lacks; on a shared directory that is none."""
        for blob in blobs:
            if not blob.sha256 or store.has(blob):
                continue
            with store.writer(expected=blob) as out:
                request = blob_pb2.ReadRequest(blob=blob)
                for part in self.stream(self._blobs.Read, request, TRANSFER):
                    out.write(part.chunk)

    def close(self) -> None:
        """Close the connection."""
        self.channel.close()


def _chunks(store: BlobStore, blob: Blob) -> Iterator[blob_pb2.WriteRequest]:
    yield blob_pb2.WriteRequest(blob=blob)
    with store.path(blob).open("rb") as file:
        while chunk := file.read(CHUNK):
            yield blob_pb2.WriteRequest(chunk=chunk)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from None
    except UnicodeError as error:
        raise InvalidInput(f"text is not UTF-8: {error}") from error


def blobs_in(message: Message) -> list[Blob]:
    """Every blob that a message refers to, however deep."""
    if isinstance(message, Blob):
        return [message] if message.sha256 else []
    found = []
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for item in value if field.is_repeated else (value,):
            found += blobs_in(item)
    return found
