"""What services say before the plan is made, also where one goes away meanwhile."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from pqbench.runtime.v1 import runtime_pb2 as pb
from pqbench_orchestrator.config.manifest import Manifest
from pqbench_orchestrator.planning import survey
from pqbench_wire.errors import Unavailable

MANIFEST = Manifest.model_validate({
    "name": "m", "models": [{"model": "digits/resnet"}], "datasets": [{"dataset": "digits"}], "recipes": [{}],
    "targets": [{"name": "t", "backend": "b"}],
})  # fmt: skip


class Service:
    """A runtime service that ends at its first `deaths` calls, and is started anew after each."""

    def __init__(self, deaths: int, lives_on: bool = False) -> None:
        self.channel = grpc.insecure_channel("localhost:1")
        self.left, self.starts, self._lives_on, self._is_alive = deaths, 0, lives_on, False

    @property
    def compressors(self) -> list[str]:
        return []

    def swapped(self, name: str) -> bool:
        return False

    def client(self, name: str) -> Any:
        if not self._is_alive:
            self.starts += 1
            self._is_alive = True
        return self

    def alive(self, name: str) -> bool:
        return self._is_alive

    def stop(self, name: str) -> None:
        self._is_alive = False

    def call(self, method: Any, request: Any) -> Any:
        if self.left:
            self.left -= 1
            self._is_alive = self._lives_on
            raise Unavailable("Socket closed")
        if isinstance(request, pb.CheckRequest):
            return pb.CheckResponse(device="a device")
        return pb.GetCapabilitiesResponse(backends=[pb.Backend()])


@pytest.mark.parametrize(
    ("service", "reason", "starts"),
    [(Service(0), "", 1), (Service(1), "", 2), (Service(2), "Socket closed", 2),
     (Service(1, lives_on=True), "Socket closed", 1)],
    ids=["lives", "dies once", "dies twice", "lives and lacks something"],
)  # fmt: skip
def test_a_service_that_ends_is_asked_once_more(service: Service, reason: str, starts: int) -> None:
    facts = survey._ask_target(MANIFEST, MANIFEST.targets[0], service)
    assert (facts.unavailable, service.starts) == (reason, starts)
    assert facts.device == ("" if reason else "a device")
