"""Errors: the table is complete, and every class survives the way through gRPC."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from typing import Any
from urllib.parse import quote

import grpc
import pytest

from pqbench_wire import errors
from pqbench_wire.errors import PqbenchError
from pqbench_wire.interceptor import Interceptor
from pqbench_wire.status import from_rpc_error, to_status


def tree(cls: type[PqbenchError]) -> list[type[PqbenchError]]:
    return [cls, *(descendant for child in cls.__subclasses__() for descendant in tree(child))]


def test_the_table_is_complete_and_unambiguous() -> None:
    assert set(errors.TABLE) == set(tree(PqbenchError))
    reasons = [reason for _, reason in errors.TABLE.values()]
    assert len(set(reasons)) == len(reasons)
    assert all(reason == reason.upper() for reason in reasons)


def test_the_docstring_draws_the_whole_tree() -> None:
    assert errors.__doc__ is not None
    for cls in tree(PqbenchError):
        assert cls.__name__ in errors.__doc__


def test_only_unavailable_invites_a_retry() -> None:
    codes = [code for cls, (code, _) in errors.TABLE.items() if cls is not errors.Unavailable]
    assert "UNAVAILABLE" not in codes
    assert all(hasattr(grpc.StatusCode, code) for code in codes)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("cls", tree(PqbenchError))
def test_an_error_survives_the_wire(cls: type[PqbenchError], streaming: bool) -> None:
    def fail(request: bytes, context: grpc.ServicerContext) -> bytes:
        raise cls("what went wrong – and where")

    def fail_later(request: bytes, context: grpc.ServicerContext) -> Any:
        yield b"one"
        raise cls("what went wrong – and where")

    handler = (
        grpc.unary_stream_rpc_method_handler(fail_later) if streaming else grpc.unary_unary_rpc_method_handler(fail)
    )
    with pytest.raises(cls, match="what went wrong – and where") as caught:
        _call(handler, streaming)
    assert type(caught.value) is cls


@pytest.mark.parametrize("character", ["a", "ä", "%", "\n", "漢", "🙂"])
def test_a_long_text_survives_too(character: str) -> None:
    """Its headers stay under the 8 KB from which gRPC refuses some of them: also where each byte takes three."""

    def fail(request: bytes, context: grpc.ServicerContext) -> bytes:
        raise errors.Failed(character * 100_000)

    with pytest.raises(errors.Failed, match=f"^{character}{{400}}"):
        _call(grpc.unary_unary_rpc_method_handler(fail), streaming=False)
    status = to_status(errors.Failed(character * 100_000))
    headers = sum(len(value) for _, value in status.trailing_metadata) + len(quote(status.details, safe=" "))
    assert 2000 <= headers < 7500


def test_a_dead_server_is_unavailable() -> None:
    with grpc.insecure_channel("127.0.0.1:1") as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/test/Call")(b"", timeout=5)
    assert isinstance(from_rpc_error(caught.value), errors.Unavailable)


def _call(handler: Any, streaming: bool) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1), interceptors=[Interceptor(None)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", {"Call": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            method: Callable[..., Any] = channel.unary_stream if streaming else channel.unary_unary
            answer = method("/test/Call")(b"", timeout=10)
            list(answer)
    except grpc.RpcError as error:
        raise from_rpc_error(error) from None
    finally:
        server.stop(None).wait()
