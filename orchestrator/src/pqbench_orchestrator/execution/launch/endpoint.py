"""A service that already runs at an address; pqbench neither starts nor ends it."""

from __future__ import annotations

import contextlib

from pqbench.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from pqbench_orchestrator.config.inventory import EndpointPlace
from pqbench_wire.certificates import files_of
from pqbench_wire.client import Client
from pqbench_wire.errors import PqbenchError
from pqbench_wire.server import read_token

CONNECT_SECONDS = 30.0
UNLOAD_SECONDS = 10.0


class EndpointLauncher:
    """Connects to a running service; with `unload`, which is for runtimes, `stop` has it free its engines."""

    swapped = False

    def __init__(self, place: EndpointPlace, unload: bool = False) -> None:
        self._place, self._unload = place, unload
        self._client: Client | None = None

    def start(self) -> Client:
        """A connected client. Raises Unavailable if nothing answers."""
        place = self._place
        given = (place.tls_ca, place.tls_certificate, place.tls_key)
        authority, certificate, key = files_of(place.certificates) if place.certificates else given
        client = Client(
            place.address,
            token=read_token(place.token_file) if place.token_file else None,
            tls_ca=authority,
            tls_certificate=certificate,
            tls_key=key,
        )
        client.wait_ready(CONNECT_SECONDS)
        self._client = client
        return client

    def alive(self) -> bool:
        """Always True: whether the service still runs only shows in a call."""
        return True

    def last_words(self) -> str:
        """Always empty: the service's output is not known here."""
        return ""

    def stop(self) -> None:
        """Leave the service running, but have a runtime free its engines, which would disturb other measurements."""
        if self._client is None:
            return
        if self._unload:
            stub = runtime_pb2_grpc.RuntimeServiceStub(self._client.channel)
            with contextlib.suppress(PqbenchError):  # it may be gone, and its engines with it
                self._client.call(stub.Unload, runtime_pb2.UnloadRequest(), UNLOAD_SECONDS)
        self._client = None
