"""The services of a run by name: started on first use, restarted when they died, ended when done."""

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
    """One way for a service to come to run."""

    swapped: bool  # of all that are, one runs at a time

    def start(self) -> Client:
        """Bring it up and connect. Raises Unavailable with the reason."""
        ...

    def alive(self) -> bool:
        """Whether it still runs, as far as can be told without a call."""
        ...

    def last_words(self) -> str:
        """Its last output, where it is known; it may tell why it ended."""
        ...

    def stop(self) -> None:
        """End it, if it is ours."""
        ...


class Services:
    """Connections to the compressors and to each target.

    A long call of theirs that reports no progress for `stalled_after` seconds is ended.
    """

    def __init__(self, launchers: dict[str, Launcher], stalled_after: float = STALLED_AFTER) -> None:
        self._launchers = launchers
        self._stalled_after = stalled_after
        self._clients: dict[str, Client] = {}
        self._down: dict[str, Unavailable] = {}  # what did not start, which takes minutes to find out
        self._starting = {name: threading.Lock() for name in launchers}  # the survey asks services at once

    def client(self, name: str) -> Client:
        """A client of the running service; starts it if need be. Raises Unavailable."""
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
        """Whether the service takes turns with others."""
        return self._launchers[name].swapped

    def last_words(self, name: str) -> str:
        """The service's last output, where it is known."""
        return self._launchers[name].last_words()

    @property
    def compressors(self) -> list[str]:
        """The names of the compressors, the first to be asked first."""
        return [name for name in self._launchers if is_compressor(name)]

    def alive(self, name: str) -> bool:
        """Whether the service still runs, as far as can be told without a call."""
        return name in self._clients and self._launchers[name].alive()

    def renew(self, name: str) -> None:
        """Have a running runtime end its session worker: the next measurement loads its engines anew."""
        if not self.alive(name):
            return
        client = self._clients[name]
        stub = runtime_pb2_grpc.RuntimeServiceStub(client.channel)
        try:
            client.call(stub.Unload, runtime_pb2.UnloadRequest())
        except (Unavailable, Timeout):  # gone, or frozen: the next to use it starts it
            self.stop(name)

    def stop(self, name: str) -> None:
        """End one service."""
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
    """The services of a manifest where the inventory has them; local processes share the folder `data`.

    `compressor` takes the place of the inventory's first.
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
    """The launcher for a place of the inventory; none is a local process."""
    if place is not None and place.endpoint is not None:
        return EndpointLauncher(place.endpoint, unload=module == RUNTIME)
    if place is not None and place.docker is not None:
        return DockerLauncher(place.docker, data, log)
    allowed = allow_code or (place is not None and place.process is not None and place.process.allow_code)
    flags = ("--allow-code",) if allowed and module == "pqbench_compressor" else ()
    python = place.process.python if place is not None and place.process is not None else ""
    return ProcessLauncher(module, data, log, flags, python)
