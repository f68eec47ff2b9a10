"""The server kit: health, reflection, error translation, token, TLS, graceful shutdown."""

from __future__ import annotations

import argparse
import contextlib
import hmac
import ipaddress
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from pqbench_wire.errors import Cancelled, InvalidInput, PqbenchError, Unauthenticated
from pqbench_wire.jobs import first_line
from pqbench_wire.process import die_with_parent
from pqbench_wire.status import to_status

log = logging.getLogger(__name__)
MAX_MESSAGE = 8 << 20  # bytes: a blob's chunk or a layer table, never a tensor
GRACE = 5.0  # seconds that calls in flight have to end


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """How a service listens. Off loopback it needs TLS or a token and refuses to start without."""

    listen: str = "127.0.0.1:0"  # host:port; port 0: assigned by the system
    data: Path = Path("data")  # blobs and kept results
    locks: Path | None = None  # a folder that all parties on this machine see
    tls_certificate: Path | None = None  # PEM
    tls_key: Path | None = None  # PEM
    tls_client_ca: Path | None = None  # PEM; given: clients need a certificate of this CA
    token_file: Path | None = None  # its content is the bearer token that clients need
    parent: int | None = None  # process to die with


def parse_options(
    prog: str, argv: list[str] | None = None, flags: tuple[str, ...] = ()
) -> tuple[ServerOptions, set[str]]:
    """The options of a service's command line, and which of its own boolean `flags` were given."""
    parser = argparse.ArgumentParser(prog)
    parser.add_argument("--listen", default=ServerOptions.listen, help="host:port; port 0 is assigned by the system")
    parser.add_argument("--data", type=Path, default=ServerOptions.data, help="folder of blobs and kept results")
    parser.add_argument("--locks", type=Path, help="folder that all pqbench services on this machine see")
    parser.add_argument("--tls-certificate", type=Path)
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument("--tls-client-ca", type=Path, help="clients need a certificate of this authority")
    parser.add_argument("--token-file", type=Path, help="clients need this bearer token")
    parser.add_argument("--parent", type=int, help="process to die with")
    for flag in flags:
        parser.add_argument(f"--{flag}", action="store_true")
    values = vars(parser.parse_args(argv))
    given = {flag for flag in flags if values.pop(flag.replace("-", "_"))}
    return ServerOptions(**values), given


class Interceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Turns the error tree into statuses and checks the token; health stays open to probes."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None], details: Any
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = continuation(details)
        if handler is None:
            return None
        allowed = self._token is None or details.method.startswith("/grpc.health.v1.") or self._has_token(details)
        if handler.response_streaming:
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            behaviour = _translating_stream(handler.stream_stream or handler.unary_stream, allowed)
        else:
            make = (
                grpc.stream_unary_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_unary_rpc_method_handler
            )
            behaviour = _translating_call(handler.stream_unary or handler.unary_unary, allowed)
        return make(behaviour, handler.request_deserializer, handler.response_serializer)

    def _has_token(self, details: Any) -> bool:
        given = dict(details.invocation_metadata).get("authorization", "")
        return hmac.compare_digest(given, f"Bearer {self._token}")


@contextlib.contextmanager
def _translated(context: grpc.ServicerContext, allowed: bool) -> Iterator[None]:
    try:
        if not allowed:
            raise Unauthenticated("this service needs a bearer token (authorization: Bearer …)")
        yield
    except PqbenchError as error:
        context.abort_with_status(to_status(error))


def _translating_call(behaviour: Any, allowed: bool) -> Callable[[Any, grpc.ServicerContext], Any]:
    def call(request: Any, context: grpc.ServicerContext) -> Any:
        with _translated(context, allowed):
            return behaviour(request, context)

    return call


def _translating_stream(behaviour: Any, allowed: bool) -> Callable[[Any, grpc.ServicerContext], Any]:
    def stream(request: Any, context: grpc.ServicerContext) -> Any:
        with _translated(context, allowed):
            yield from behaviour(request, context)

    return stream


def serve(
    options: ServerOptions,
    add: Callable[[grpc.Server], list[str]],
    close: Callable[[], None] = lambda: None,
    max_message: int = MAX_MESSAGE,
) -> None:
    """Serve until SIGTERM or SIGINT.

    `add` registers servicers and returns their full names; `close` frees what they hold; `max_message`: bytes of a
    request or reply. The first line on standard output is JSON: {"listening": "host:port"}.
    """
    if options.parent is not None:
        die_with_parent(options.parent)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    token = _token(options)
    # Many threads are cheap: they wait for events; work is serialised by the jobs themselves.
    limits = [("grpc.max_receive_message_length", max_message), ("grpc.max_send_message_length", max_message)]
    server = grpc.server(
        futures.ThreadPoolExecutor(32), interceptors=[Interceptor(token)], options=[*limits, ("grpc.so_reuseport", 0)]
    )
    names = [*add(server), health.SERVICE_NAME, reflection.SERVICE_NAME]
    checks = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection(names, server)
    address = _bind(server, options)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server.start()
    for name in ("", *names):
        checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    print(json.dumps({"listening": address, "pid": os.getpid()}), flush=True)
    stop.wait()
    checks.enter_graceful_shutdown()
    server.stop(GRACE).wait()
    close()
    logging.shutdown()
    os._exit(0)  # threads of calls that were cut off may wait for work that nobody wants any more


def _bind(server: grpc.Server, options: ServerOptions) -> str:
    host = options.listen.rpartition(":")[0]
    try:
        if options.tls_certificate and options.tls_key:
            port = server.add_secure_port(options.listen, _credentials(options))
        else:
            port = server.add_insecure_port(options.listen)
    except (RuntimeError, OSError) as error:
        raise InvalidInput(f"cannot listen on {options.listen}: {first_line(error)}") from error
    return f"{host}:{port}"


def _credentials(options: ServerOptions) -> grpc.ServerCredentials:
    assert options.tls_certificate and options.tls_key
    pair = (options.tls_key.read_bytes(), options.tls_certificate.read_bytes())
    authority = options.tls_client_ca.read_bytes() if options.tls_client_ca else None
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


def _token(options: ServerOptions) -> str | None:
    if bool(options.tls_certificate) != bool(options.tls_key) or (options.tls_client_ca and not options.tls_key):
        raise InvalidInput("--tls-certificate and --tls-key go together; --tls-client-ca needs both")
    token = options.token_file.read_text().strip() if options.token_file else None
    if options.token_file and not token:
        raise InvalidInput(f"--token-file {options.token_file} is empty")
    mutual_tls = options.tls_certificate and options.tls_key and options.tls_client_ca
    if not (token or mutual_tls or is_loopback(options.listen)):
        raise InvalidInput(
            f"--listen {options.listen} is reachable from outside this machine: give --token-file, "
            "or --tls-certificate, --tls-key and --tls-client-ca"
        )
    return token


def is_loopback(address: str) -> bool:
    """Whether host:port can only be reached from this machine."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost" or address.startswith("unix:"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def main(run: Callable[[], None]) -> None:
    """Run a service's entry point; an expected failure is one line and exit code 2."""
    try:
        run()
    except (PqbenchError, OSError) as error:
        if not isinstance(error, Cancelled):
            print(f"error: {first_line(error)}", file=sys.stderr)
        sys.exit(2)
