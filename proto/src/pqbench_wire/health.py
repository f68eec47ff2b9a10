"""Health (grpc.health.v1): server, and client `python -m pqbench_wire.health HOST:PORT` (exit code 0: it serves).

A further argument is the folder of `pqbench certificates`, for a service of this machine that demands mutual TLS.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pqbench_wire.certificates import files_of

SECONDS = 10.0
Respond = Callable[[health_pb2.HealthCheckResponse], None]


class HealthServicer(health_pb2_grpc.HealthServicer):
    """The health of services that serve as long as their process runs.

    A `Watch` stream holds no thread: gRPC calls `Watch` with the function that sends, and keeps the stream open. The
    servicer of grpcio-health-checking is not used: it holds a lock while it sends, and hangs if streams open and close
    at the same time.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._services = {"", *services}

    def Check(self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext) -> Any:
        if request.service not in self._services:
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service[:80]!r}")
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    def Watch(
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext, send_response_callback: Respond
    ) -> None:
        answer = health_pb2.HealthCheckResponse
        status = answer.SERVING if request.service in self._services else answer.SERVICE_UNKNOWN
        send_response_callback(answer(status=status))

    Watch.experimental_non_blocking = True  # type: ignore[attr-defined]


def serving(address: str, certificates: Path | None = None) -> bool:
    """Whether the service at `address` (host:port) reports that it serves; no token is needed.

    `certificates`: of mutual TLS with this machine. Raises InvalidInput where files are missing there.
    """
    with _channel(address, certificates) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        except grpc.RpcError:
            return False
        return answer.status == health_pb2.HealthCheckResponse.SERVING


def _channel(address: str, certificates: Path | None) -> grpc.Channel:
    if certificates is None:
        return grpc.insecure_channel(address)
    authority, certificate, key = (file.read_bytes() for file in files_of(certificates))
    name = ("grpc.ssl_target_name_override", socket.gethostname())
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(authority, key, certificate), [name])


if __name__ == "__main__":
    sys.exit(0 if serving(sys.argv[1], *map(Path, sys.argv[2:])) else 1)
