"""What all gRPC servers of pqbench share: health, reflection, errors, token, TLS, limits, graceful shutdown."""

from __future__ import annotations

import argparse
import ipaddress
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from pqbench_wire.certificates import files_of
from pqbench_wire.errors import Cancelled, InvalidInput, PqbenchError, first_line
from pqbench_wire.health import HealthServicer
from pqbench_wire.interceptor import MAX_CALLS, Interceptor
from pqbench_wire.metrics import serve_metrics
from pqbench_wire.process import die_with_parent

log = logging.getLogger(__name__)
MAX_MESSAGE = 8 << 20  # bytes: a blob's chunk or a table of layers, never a tensor
GRACE = 5.0  # seconds that calls in flight have to end
SIGNAL_SECONDS = 0.5  # between two looks whether a signal has arrived
SPARE_THREADS = 16  # they answer health checks, and refuse calls over the limit
# Pings detect a peer that is gone; clients may ping as often as pqbench's own do.
KEEPALIVE = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 30_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
]


TLS = ("tls_client_ca", "tls_certificate", "tls_key")  # options, in the order of `certificates.Files`


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """How a service listens.

    Outside loopback it refuses to start without a token or client certificates, and a token needs TLS or
    `insecure_token`.
    """

    listen: str = "127.0.0.1:0"  # host:port; port 0: assigned by the system
    data: Path = Path("data")  # blobs and kept results
    locks: Path | None = None  # a folder that all pqbench services on this machine see
    tls_certificate: Path | None = None  # PEM
    tls_key: Path | None = None  # PEM
    tls_client_ca: Path | None = None  # PEM; if given, clients need a certificate of this CA
    token_file: Path | None = None  # contains the bearer token that clients need
    token: str | None = None  # the bearer token itself
    insecure_token: bool = False  # allow a token without TLS outside loopback
    parent: int | None = None  # id of a process; the service ends when it ends
    metrics: str | None = None  # host:port that answers Prometheus, at /metrics


def parse_options(
    prog: str, argv: list[str] | None = None, flags: tuple[str, ...] = ()
) -> tuple[ServerOptions, set[str]]:
    """The options on a service's command line, and which of the service's own boolean `flags` were given."""
    parser = argparse.ArgumentParser(prog)
    parser.add_argument("--listen", default=ServerOptions.listen, help="host:port; port 0 is assigned by the system")
    parser.add_argument("--data", type=Path, default=ServerOptions.data, help="folder of blobs and kept results")
    parser.add_argument("--locks", type=Path, help="folder for locks, shared by all pqbench services on this machine")
    parser.add_argument("--tls-certificate", type=Path)
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument("--tls-client-ca", type=Path, help="CA certificate; each client needs a certificate from it")
    parser.add_argument(
        "--certificates",
        type=Path,
        metavar="DIR",
        help="folder of `pqbench certificates`: mutual TLS as this machine's host name, in place of --tls-…",
    )
    parser.add_argument("--token-file", type=Path, help="file with the bearer token that clients must send")
    parser.add_argument("--token-pipe", type=int, help="an inherited descriptor that the bearer token is read from")
    parser.add_argument(
        "--insecure-token", action="store_true", help="accept the token without TLS: only on a network that you trust"
    )
    parser.add_argument("--parent", type=int, help="process id; the service ends when that process ends")
    parser.add_argument("--metrics", metavar="HOST:PORT", help="answer Prometheus at http://HOST:PORT/metrics")
    for flag in flags:
        parser.add_argument(f"--{flag}", action="store_true")
    values = vars(parser.parse_args(argv))
    if folder := values.pop("certificates"):
        if any(values[name] for name in TLS):
            raise InvalidInput("--certificates stands for all --tls-… options: give one or the others")
        values |= dict(zip(TLS, files_of(folder, socket.gethostname()), strict=True))
    given = {flag for flag in flags if values.pop(flag.replace("-", "_"))}
    pipe = values.pop("token_pipe")
    return ServerOptions(**values, token=None if pipe is None else _read_token(pipe)), given


def _read_token(descriptor: int) -> str:
    """A token from an inherited pipe, so that nobody can read it on a command line, in an environment or in a file."""
    with os.fdopen(descriptor) as pipe:
        return pipe.read().strip()


def make_server(token: str | None, max_message: int = MAX_MESSAGE) -> grpc.Server:
    """A server without services; `max_message`: largest request or reply in bytes."""
    limits = [("grpc.max_receive_message_length", max_message), ("grpc.max_send_message_length", max_message)]
    return grpc.server(
        futures.ThreadPoolExecutor(MAX_CALLS + SPARE_THREADS),
        interceptors=[Interceptor(token)],
        options=[*limits, *KEEPALIVE, ("grpc.so_reuseport", 0)],
    )


def serve(
    options: ServerOptions,
    add: Callable[[grpc.Server], list[str]],
    close: Callable[[], None] = lambda: None,
    max_message: int = MAX_MESSAGE,
) -> None:
    """Serve until SIGTERM or SIGINT.

    `add` registers servicers and returns their services' full names. `close` frees what they hold. `max_message` is
    the largest request or reply in bytes. The first line on standard output is JSON: {"listening": "host:port",
    "pid": 123}. At the end the process exits with code 0. Raises InvalidInput for options that cannot work.
    """
    if options.parent is not None:
        die_with_parent(options.parent)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    token = _token(options)
    server = make_server(token, max_message)
    names = [*add(server), health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME]
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(names), server)
    reflection.enable_server_reflection(names, server)
    address = _bind(server, options)
    if options.metrics:
        serve_metrics(options.metrics)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server.start()
    print(json.dumps({"listening": address, "pid": os.getpid()}), flush=True)
    while not stop.wait(SIGNAL_SECONDS):  # a signal that another thread received does not end an endless wait
        pass
    server.stop(GRACE).wait()
    close()
    logging.shutdown()
    os._exit(0)  # threads of aborted calls may still wait for work that is no longer needed


def _bind(server: grpc.Server, options: ServerOptions) -> str:
    host, _, _ = options.listen.rpartition(":")
    try:
        if options.tls_certificate and options.tls_key:
            port = server.add_secure_port(options.listen, _credentials(options))
        else:
            port = server.add_insecure_port(options.listen)
    except (RuntimeError, OSError) as error:
        raise InvalidInput(f"cannot listen on {options.listen}: {first_line(error)}") from error
    return options.listen if options.listen.startswith("unix:") else f"{host}:{port}"


def _credentials(options: ServerOptions) -> grpc.ServerCredentials:
    """The options' files, which are read again for a new connection once they have changed: certificates expire.

    Files that cannot be read then leave the former ones in place, with a line in the log.
    """
    files = [file for file in (options.tls_key, options.tls_certificate, options.tls_client_ca) if file]
    seen = [file.read_bytes() for file in files]
    logger = logging.getLogger(__name__)

    def configuration() -> grpc.ServerCertificateConfiguration:
        key, certificate, *authority = seen
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authority[0] if authority else None)

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        try:
            found = [file.read_bytes() for file in files]
        except OSError as error:
            logger.warning("cannot read new certificates: %s", error)
            return None
        if found == seen:
            return None
        seen[:] = found
        return configuration()

    is_mutual = options.tls_client_ca is not None
    # gRPC documents that None means unchanged; its stubs do not know. Files that are no certificates it logs, and keeps
    # the former ones.
    return grpc.dynamic_ssl_server_credentials(configuration(), renewed, is_mutual)  # type: ignore[arg-type]


def _token(options: ServerOptions) -> str | None:
    if bool(options.tls_certificate) != bool(options.tls_key) or (options.tls_client_ca and not options.tls_key):
        raise InvalidInput("--tls-certificate and --tls-key go together; --tls-client-ca needs both")
    token = read_token(options.token_file) if options.token_file else options.token
    if token is not None and not token:
        raise InvalidInput("the token is empty")
    if is_loopback(options.listen):
        return token
    if not (token or options.tls_client_ca):
        raise InvalidInput(
            f"--listen {options.listen} is reachable from outside this machine: give --token-file, "
            "or --tls-certificate, --tls-key and --tls-client-ca"
        )
    if token and not (options.tls_key or options.insecure_token):
        raise InvalidInput(
            f"--listen {options.listen} would send the token unencrypted: give --tls-certificate and --tls-key "
            "too or, on a network that you trust, --insecure-token"
        )
    return token


def read_token(file: Path) -> str:
    """A bearer token from a file. Raises InvalidInput if it cannot be read, or cannot be sent in a header."""
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise InvalidInput(f"token file {file}: {first_line(error)}") from error
    if not token or not all("!" <= character <= "~" for character in token):
        raise InvalidInput(f"token file {file}: a token is one word of printable ASCII characters")
    return token


def is_loopback(address: str) -> bool:
    """Whether an address, host:port or unix:path, can only be reached from this machine."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost" or address.startswith("unix:"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def main(run: Callable[[], None]) -> None:
    """Run a service's entry point; an expected failure prints one line and exits with code 2."""
    try:
        run()
    except (PqbenchError, OSError) as error:
        if not isinstance(error, Cancelled):
            print(f"error: {first_line(error)}", file=sys.stderr)
        sys.exit(2)
