"""The services of a run by place: started on first use, and again after they were stopped; ended at the end."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Protocol

from pqbench.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from pqbench_orchestrator.config.inventory import Inventory, Place
from pqbench_orchestrator.config.manifest import Manifest
from pqbench_orchestrator.execution.launch.docker import DockerLauncher
from pqbench_orchestrator.execution.launch.endpoint import EndpointLauncher
from pqbench_orchestrator.execution.launch.process import ProcessLauncher
from pqbench_orchestrator.planning.places import COMPRESSOR, is_compressor, of_compressor, of_target
from pqbench_wire.client import STALLED_AFTER, Client
from pqbench_wire.errors import Timeout, Unavailable

RUNTIME = "pqbench_runtime"


class Launcher(Protocol):
    """A way of starting a service, or of connecting to one."""

    swapped: bool  # whether the service takes turns: of all services that do, only one runs at a time

    def start(self) -> Client:
        """Start the service and connect to it. Raises Unavailable with the reason."""
        ...

    def alive(self) -> bool:
        """Whether the service still runs, as far as is known without a call to it."""
        ...

    def last_words(self) -> str:
        """The last output of the service, which may explain why it ended; empty where it is not known."""
        ...

    def stop(self) -> None:
        """End the service if pqbench started it."""
        ...


class Services:
    """Connections to the compressors and to each target's runtime, by place.

    A long call that reports no progress for `stalled_after` seconds is ended.
    """

    def __init__(self, launchers: dict[str, Launcher], stalled_after: float = STALLED_AFTER) -> None:
        self._launchers = launchers
        self._stalled_after = stalled_after
        self._clients: dict[str, Client] = {}
        self._down: dict[str, Unavailable] = {}  # services that did not start: not tried again, as it may take minutes
        self._starting = {name: threading.Lock() for name in launchers}  # the survey asks services in parallel

    def client(self, name: str) -> Client:
        """A client of the service at a place, which is started if necessary. Raises Unavailable."""
        with self._starting[name]:
            if name in self._down:
                raise self._down[name]
            if name not in self._clients:
                if self.swapped(name):
                    for other in [other for other in list(self._clients) if self.swapped(other)]:
                        self.stop(other)
                self._clients[name] = self._start(name)
            return self._clients[name]

    def _start(self, name: str) -> Client:
        try:
            client = self._launchers[name].start()
        except Unavailable as error:
            self._down[name] = error
            raise
        client.stalled_after = self._stalled_after
        return client

    def swapped(self, name: str) -> bool:
        """Whether the service takes turns with others: of those that do, only one runs at a time."""
        return self._launchers[name].swapped

    def last_words(self, name: str) -> str:
        """The service's last output; empty where it is not known."""
        return self._launchers[name].last_words()

    @property
    def compressors(self) -> list[str]:
        """The places of the compressors, in the order in which they are asked."""
        return [name for name in self._launchers if is_compressor(name)]

    def alive(self, name: str) -> bool:
        """Whether the service was started and still runs, as far as is known without a call to it."""
        return name in self._clients and self._launchers[name].alive()

    def renew(self, name: str) -> None:
        """Have a running runtime end its session worker, so that the next measurement loads its engines anew."""
        if not self.alive(name):
            return
        client = self._clients[name]
        stub = runtime_pb2_grpc.RuntimeServiceStub(client.channel)
        try:
            client.call(stub.Unload, runtime_pb2.UnloadRequest())
        except (Unavailable, Timeout):  # it is gone or frozen; the next use starts it again
            self.stop(name)

    def stop(self, name: str) -> None:
        """Disconnect from a service, and end it if pqbench started it."""
        client = self._clients.pop(name, None)
        self._launchers[name].stop()
        if client is not None:
            client.close()

    def __enter__(self) -> Services:
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._launchers:
            self.stop(name)


def from_inventory(
    manifest: Manifest,
    inventory: Inventory,
    data: Path,
    logs: Path,
    allow_code: bool,
    compressor: Launcher | None = None,
) -> Services:
    """The services of a manifest, at the places that the inventory gives; none is started yet.

    Local processes and containers share the folder `data` with the orchestrator. `compressor`, if given, replaces the
    inventory's first compressor.
    """
    launchers: dict[str, Launcher] = {}
    places: dict[str, Place | None] = {COMPRESSOR: inventory.compressor}
    places |= {of_compressor(name): place for name, place in inventory.compressors.items()}
    places |= {of_target(target.name): inventory.place_of(target) for target in manifest.targets}
    for name, place in places.items():
        module = "pqbench_compressor" if is_compressor(name) else RUNTIME
        launchers[name] = launcher(place, module, data, logs / f"{name.replace(' ', '-')}.log", allow_code)
    if compressor is not None:
        launchers[COMPRESSOR] = compressor
    return Services(launchers, manifest.stall_seconds)


def launcher(place: Place | None, module: str, data: Path, log: Path, allow_code: bool = False) -> Launcher:
    """The launcher for a place of the inventory; None means a local process of the Python package `module`."""
    if place is not None and place.endpoint is not None:
        return EndpointLauncher(place.endpoint, unload=module == RUNTIME)
    if place is not None and place.docker is not None:
        return DockerLauncher(place.docker, data, log)
    allowed = allow_code or (place is not None and place.process is not None and place.process.allow_code)
    flags = ("--allow-code",) if allowed and module == "pqbench_compressor" else ()
    python = place.process.python if place is not None and place.process is not None else ""
    return ProcessLauncher(module, data, log, flags, python)
