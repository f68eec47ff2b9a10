"""The client of a service: one channel, a deadline on every call, errors as PqbenchError, transfer of blobs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from pqbench.blob.v1 import blob_pb2, blob_pb2_grpc
from pqbench.common.v1.common_pb2 import Blob
from pqbench_wire.blobs import CHUNK, BlobStore
from pqbench_wire.errors import Cancelled, Failed, Frozen, InvalidInput, PqbenchError, Timeout, Unavailable
from pqbench_wire.jobs import WAITING
from pqbench_wire.server import KEEPALIVE, MAX_MESSAGE
from pqbench_wire.status import from_rpc_error

SHORT = 60.0  # seconds: calls that look something up
LONG = 6 * 3600.0  # seconds: calls that compress, build, measure
TRANSFER = 3600.0  # seconds: one blob
FROZEN_AFTER = 30.0  # seconds without any event of a long call, not even a heartbeat
STALLED_AFTER = 900.0  # seconds without progress, after which a long call is ended
TICK = 1.0  # seconds

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
        self.stalled_after = STALLED_AFTER
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        limits = [("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.max_send_message_length", MAX_MESSAGE)]
        options = [*limits, *KEEPALIVE]
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
            raise Unavailable(f"no service answered at {self.address} within {seconds:.0f} s: is it running?") from None

    def call(self, method: Callable[..., Result], request: Message, deadline: float = SHORT) -> Result:
        """Make one unary call; `deadline` is in seconds. Raises the PqbenchError that the service reports."""
        with _translated():
            return method(request, timeout=deadline, metadata=self._metadata)

    def stream(
        self,
        method: Callable[..., Iterator[Any]],
        request: Message,
        deadline: float = LONG,
        silence: float = 0.0,
    ) -> Iterator[Any]:
        """The events of a long call; leaving the iteration cancels it.

        Raises Frozen if no event arrives for FROZEN_AFTER seconds, not even a heartbeat. Raises Timeout if no progress
        is reported for the client's `stalled_after` seconds plus `silence`, the seconds in which none is expected.
        """
        events = method(request, timeout=deadline, metadata=self._metadata)
        watch = _Watch(events, self.address, self.stalled_after + silence)
        try:
            with _translated():
                for event in events:
                    watch.heard(event)
                    yield event
        except Cancelled as error:
            raise watch.verdict(error) from None
        finally:
            watch.end()
            events.cancel()  # type: ignore[attr-defined]

    def result(
        self,
        method: Callable[..., Iterator[Any]],
        request: Message,
        on_event: Callable[[Any], None] = lambda _: None,
        silence: float = 0.0,
    ) -> Any:
        """The result of a long call; other events go to `on_event`. Raises as `stream`, and Failed without a result."""
        for event in self.stream(method, request, LONG, silence):
            if event.WhichOneof("event") == "result":
                return event.result
            on_event(event)
        raise Failed(f"{self.address} ended the call without a result")

    def push(self, store: BlobStore, blobs: Iterable[Blob]) -> None:
        """Send the service those of `blobs` that it lacks: none, if it shares the store's directory."""
        wanted = blob_pb2.FindMissingRequest(blobs=[b for b in blobs if b.sha256])
        for blob in self.call(self._blobs.FindMissing, wanted).blobs:
            path = store.path(blob)
            with _translated():
                self._blobs.Write(_chunks(path, blob), timeout=TRANSFER, metadata=self._metadata)

    def pull(self, store: BlobStore, blobs: Iterable[Blob]) -> None:
        """Fetch those of `blobs` that `store` lacks: none, if the service shares its directory."""
        for blob in blobs:
            if not blob.sha256 or store.has(blob):
                continue
            with store.writer(expected=blob) as out:
                request = blob_pb2.ReadRequest(blob=blob)
                with _translated():
                    for part in self._blobs.Read(request, timeout=TRANSFER, metadata=self._metadata):
                        out.write(part.chunk)

    def close(self) -> None:
        """Close the connection."""
        self.channel.close()


class _Watch:
    """Cancels a long call that sends no events, or that makes no progress.

    Time is counted in ticks of a separate thread, so that none passes while this process itself is stopped.
    """

    def __init__(self, call: Any, address: str, stalled_after: float) -> None:
        self._call, self._address, self._stalled_after = call, address, stalled_after
        self._silent = self._stalled = 0.0  # seconds
        self._last: tuple[str, float, str] | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="watch").start()

    def heard(self, event: Any) -> None:
        """Record that an event arrived."""
        self._silent = 0.0
        if event.WhichOneof("event") == "progress":
            state = (event.progress.stage, event.progress.fraction, event.progress.message)
            # A job that waits for others reports this repeatedly; waiting does not count as a stall.
            self._stalled = self._stalled if state == self._last and state[0] != WAITING else 0.0
            self._last = state

    def verdict(self, error: Cancelled) -> PqbenchError:
        """Why the call was cancelled: Frozen or Timeout if this watch cancelled it, else `error` itself."""
        if self._silent >= FROZEN_AFTER:
            return Frozen(f"frozen: no sign of life from the service at {self._address} for {FROZEN_AFTER:.0f} s")
        if self._stalled >= self._stalled_after:
            at = f" after {self._last[0]} {self._last[1]:.0%}" if self._last else ""
            return Timeout(
                f"no progress for {self._stalled_after:.0f} s{at}: stopped (stall_seconds in the manifest is the limit)"
            )
        return error

    def end(self) -> None:
        """Stop watching."""
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(TICK):
            self._silent += TICK
            self._stalled += TICK
            if self._silent >= FROZEN_AFTER or self._stalled >= self._stalled_after:
                self._call.cancel()
                return


def _chunks(path: Path, blob: Blob) -> Iterator[blob_pb2.WriteRequest]:
    yield blob_pb2.WriteRequest(blob=blob)
    with path.open("rb") as file:
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
    """Every blob that a message refers to, at any depth, except in map fields."""
    if isinstance(message, Blob):
        return [message] if message.sha256 else []
    found = []
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for item in value if field.is_repeated else (value,):
            found += blobs_in(item)
    return found
