"""A service that runs already, reached by address; pqbench neither starts nor ends it."""

from __future__ import annotations

from pqbench_orchestrator.manifest import EndpointPlace
from pqbench_wire.client import Client

CONNECT_SECONDS = 10.0


class EndpointLauncher:
    """Connects to a running service."""

    def __init__(self, place: EndpointPlace) -> None:
        self._place = place

    def start(self) -> Client:
        """A connected client. Raises Unavailable if nothing answers."""
        place = self._place
        client = Client(
            place.address,
            token=place.token_file.read_text().strip() if place.token_file else None,
            tls_ca=place.tls_ca,
            tls_certificate=place.tls_certificate,
            tls_key=place.tls_key,
        )
        client.wait_ready(CONNECT_SECONDS)
        return client

    def alive(self) -> bool:
        """A client finds out by calling."""
        return True

    def stop(self) -> None:
        """Nothing: the service is not ours."""
