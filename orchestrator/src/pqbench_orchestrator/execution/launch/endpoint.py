"""A service that runs already, reached by address; pqbench neither starts nor ends it."""

from __future__ import annotations

import contextlib

from pqbench.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from pqbench_orchestrator.config.inventory import EndpointPlace
from pqbench_wire.client import Client
from pqbench_wire.errors import PqbenchError
from pqbench_wire.server import read_token

CONNECT_SECONDS = 30.0
UNLOAD_SECONDS = 10.0


class EndpointLauncher:
    """Connects to a running service."""

    swapped = False

    def __init__(self, place: EndpointPlace, unload: bool = False) -> None:
        self._place, self._unload = place, unload
        self._client: Client | None = None

    def start(self) -> Client:
        """A connected client. Raises Unavailable if nothing answers."""
        place = self._place
        client = Client(
            place.address,
            token=read_token(place.token_file) if place.token_file else None,
            tls_ca=place.tls_ca,
            tls_certificate=place.tls_certificate,
            tls_key=place.tls_key,
        )
        client.wait_ready(CONNECT_SECONDS)
        self._client = client
        return client

    def alive(self) -> bool:
        """A client finds out by calling."""
        return True

    def last_words(self) -> str:
        """Not known here."""
        return ""

    def stop(self) -> None:
        """The service is not ours to end; a runtime frees its engines, which the next measurement would notice."""
        if self._client is None:
            return
        if self._unload:
            stub = runtime_pb2_grpc.RuntimeServiceStub(self._client.channel)
            with contextlib.suppress(PqbenchError):  # it may be gone, and its engines with it
                self._client.call(stub.Unload, runtime_pb2.UnloadRequest(), UNLOAD_SECONDS)
        self._client = None
