"""What every call goes through: token, bound of the calls in flight, arrival of the request, errors as statuses."""

from __future__ import annotations

import contextlib
import functools
import hmac
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from pqbench_wire.errors import Busy, Internal, InvalidInput, PqbenchError, Unauthenticated, first_line
from pqbench_wire.jobs import log_by_id
from pqbench_wire.metrics import counted
from pqbench_wire.status import to_status

MAX_CALLS = 64  # in flight at once; a long call holds a thread while it waits for events
HEALTH = "/grpc.health.v1."
REQUEST_SECONDS = 10.0  # in which the request of a call must arrive, unless it is a stream


class Interceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Checks the token, bounds the calls in flight, turns exceptions into statuses; health needs no token or slot."""

    def __init__(self, token: str | None) -> None:
        self._token = None if token is None else f"Bearer {token}".encode()
        self._free = threading.BoundedSemaphore(MAX_CALLS)

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None], details: Any
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = continuation(details)
        if handler is None:
            return None
        is_health = details.method.startswith(HEALTH)
        allowed = is_health or self._token is None or self._has_token(details)
        guard = partial(self._guard, allowed, not is_health, details.method)
        # All requests are received as streams of bytes. For a single request, gRPC would wait on a thread of the pool,
        # without limit, before any code here runs.
        read = _reader(handler)
        behaviour = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        if getattr(behaviour, "experimental_non_blocking", False):
            watching = _guarded_watch(behaviour, read, guard)
            return grpc.stream_stream_rpc_method_handler(watching, None, handler.response_serializer)
        if handler.response_streaming:
            stream = _guarded_stream(behaviour, read, guard)
            return grpc.stream_stream_rpc_method_handler(stream, None, handler.response_serializer)
        return grpc.stream_unary_rpc_method_handler(
            _guarded_call(behaviour, read, guard), None, handler.response_serializer
        )

    def _has_token(self, details: Any) -> bool:
        given = dict(details.invocation_metadata).get("authorization", "")
        return hmac.compare_digest(given.encode() if isinstance(given, str) else given, self._token or b"")

    @contextlib.contextmanager
    def _guard(self, allowed: bool, limited: bool, method: str, context: grpc.ServicerContext) -> Iterator[None]:
        with counted(method, context) if limited else contextlib.nullcontext():
            taken = allowed and limited and self._free.acquire(blocking=False)
            try:
                with _statuses(method, context):
                    if not allowed:
                        raise Unauthenticated("this service needs a bearer token (authorization: Bearer …)")
                    if limited and not taken:
                        raise Busy(f"{MAX_CALLS} calls are in flight, the limit of this service; try again")
                    yield
            finally:
                if taken:
                    self._free.release()


@contextlib.contextmanager
def _statuses(method: str, context: grpc.ServicerContext) -> Iterator[None]:
    """End the call with the status of what is raised."""
    try:
        yield
    except PqbenchError as error:
        context.abort_with_status(to_status(error))
    except (GeneratorExit, grpc.RpcError):
        raise
    except BaseException as error:  # a user's module may raise SystemExit
        if not context.is_active():  # the caller is gone and needs no status
            raise
        context.abort_with_status(to_status(Internal(f"{method}: {log_by_id(error)}")))


class _Late:
    """Cancels calls whose request does not arrive within REQUEST_SECONDS. One thread does: timers would be one each."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[float, grpc.ServicerContext]] = {}  # by a number of the call: deadline, call
        self._numbers = itertools.count()
        self._start = functools.cache(lambda: threading.Thread(target=self._watch, daemon=True).start())

    @contextlib.contextmanager
    def watched(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Cancel the call where this context lasts too long."""
        self._start()
        number = next(self._numbers)
        self._waiting[number] = (time.monotonic() + REQUEST_SECONDS, context)
        try:
            yield
        finally:
            del self._waiting[number]

    def _watch(self) -> None:
        while True:
            time.sleep(1)
            for deadline, context in list(self._waiting.values()):
                if time.monotonic() > deadline:
                    context.cancel()


_LATE = _Late()
Guard = Callable[[grpc.ServicerContext], contextlib.AbstractContextManager[None]]


Reader = Callable[[Iterator[bytes], grpc.ServicerContext], Any]


def _reader(handler: grpc.RpcMethodHandler[Any, Any]) -> Reader:
    """A function that parses a call's bytes into its request, or into an iterator of requests.

    A malformed request raises InvalidInput; gRPC itself would answer INTERNAL.
    """
    deserialize = handler.request_deserializer

    def one(data: bytes) -> Any:
        if deserialize is None:
            return data
        try:
            return deserialize(data)
        except DecodeError as error:
            raise InvalidInput(f"the request cannot be read: {first_line(error)}") from error

    def only(parts: Iterator[bytes], context: grpc.ServicerContext) -> Any:
        with _LATE.watched(context):
            try:
                return one(next(parts))
            except StopIteration:
                raise InvalidInput("the call has no request") from None

    return (lambda parts, context: map(one, parts)) if handler.request_streaming else only


def _guarded_watch(behaviour: Any, read: Reader, guard: Guard) -> Any:
    """Guard a handler that gRPC gives the function that sends; it holds no thread while its stream is open."""

    def watch(parts: Iterator[bytes], context: grpc.ServicerContext, send_response_callback: Any) -> None:
        with guard(context):
            behaviour(read(parts, context), context, send_response_callback)

    watch.experimental_non_blocking = True  # type: ignore[attr-defined]
    return watch


def _guarded_call(behaviour: Any, read: Reader, guard: Guard) -> Callable[[Any, grpc.ServicerContext], Any]:
    def call(parts: Iterator[bytes], context: grpc.ServicerContext) -> Any:
        with guard(context):
            return behaviour(read(parts, context), context)

    return call


def _guarded_stream(behaviour: Any, read: Reader, guard: Guard) -> Callable[[Any, grpc.ServicerContext], Any]:
    def stream(parts: Iterator[bytes], context: grpc.ServicerContext) -> Any:
        with guard(context):
            yield from behaviour(read(parts, context), context)

    return stream
