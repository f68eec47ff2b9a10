"""A service in a container; only one container runs at a time, so that runtimes take turns on a device."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from pathlib import Path
from typing import Any

import docker
import psutil
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import DeviceRequest

from pqbench_orchestrator.config.inventory import DockerPlace
from pqbench_wire.client import Client
from pqbench_wire.errors import Unavailable, first_line
from pqbench_wire.health import serving
from pqbench_wire.process import process_name
from pqbench_wire.shared.locks import lock_folder

START_SECONDS = 180.0
STOP_SECONDS = 10
PORT = "50051/tcp"
OWNER = "pqbench.owner"  # label of a container: the process that started it and has to end it
LAST_LINES = 5


class DockerLauncher:
    """Starts a container of a pqbench image, as the caller's user and with the shared folder `data`, on loopback."""

    swapped = True

    def __init__(self, place: DockerPlace, data: Path, log: Path) -> None:
        self._place, self._data, self._log = place, data.resolve(), log
        self._image = place.image_name
        self._container: Any = None
        self._token: Path | None = None

    def start(self) -> Client:
        """Start the container, wait until it is healthy, and connect.

        Raises Unavailable with the reason: a missing image, Docker's error, or the container's last lines.
        """
        engine = _engine()
        _remove_orphans(engine)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        token = secrets.token_urlsafe()
        self._token = self._log.with_suffix(".token")
        self._token.unlink(missing_ok=True)
        with open(self._token, "x", opener=_private) as file:  # at no moment readable by other users
            file.write(token)
        try:
            own = {"PQBENCH_IMAGE": f"{self._image} {engine.images.get(self._image).id}"}  # for the environment record
            self._container = engine.containers.create(self._image, environment=own, **self._options())  # never pulled
            self._container.start()
        except ImageNotFound as error:
            self.stop()
            raise Unavailable(f"there is no image {self._image}: {self._place.how_to_get}") from error
        except APIError as error:
            self.stop()
            raise Unavailable(f"{self._image} cannot be started: {error.explanation or first_line(error)}") from error
        client = Client(self._address(), token=token)
        client.wait_ready(START_SECONDS)
        return client

    def alive(self) -> bool:
        """Whether the container runs."""
        return self._status() == "running"

    def last_words(self) -> str:
        """The last lines of the container's output, in one line."""
        if self._container is None:
            return ""
        with contextlib.suppress(NotFound):
            text = self._container.logs(tail=LAST_LINES).decode(errors="replace")
            return " | ".join(line.strip() for line in text.splitlines() if line.strip())
        return f"the container of {self._image} is gone"

    def stop(self) -> None:
        """End and remove the container; its output is appended to the log."""
        if self._container is not None:
            with contextlib.suppress(NotFound):
                self._container.stop(timeout=STOP_SECONDS)
                with self._log.open("ab") as log:
                    log.write(self._container.logs())
                self._container.remove(force=True, v=True)
            self._container = None
        if self._token is not None:
            self._token.unlink(missing_ok=True)

    def _options(self) -> dict[str, Any]:
        """The options that limit a container: it may write the shared folder, the locks and /tmp, and use its GPUs."""
        locks = lock_folder()
        self._data.mkdir(parents=True, exist_ok=True)
        gpus = [DeviceRequest(count=-1, capabilities=[["gpu"]])] if self._place.uses_gpus else []
        return {
            "command": ["--listen", "0.0.0.0:50051", "--token-file", "/token", "--insecure-token", "--locks", "/locks"],
            "user": f"{os.getuid()}:{os.getgid()}",
            "volumes": [f"{self._data}:/data", f"{locks}:/locks", f"{self._token}:/token:ro"],
            "ports": {PORT: ("127.0.0.1", None)},
            "device_requests": gpus,
            "labels": {OWNER: process_name(os.getpid())},
            "init": True,
            "read_only": True,
            "tmpfs": {"/tmp": "exec,mode=1777,size=8g"},  # noqa: S108
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
        }

    def _address(self) -> str:
        """The service's address on loopback, once it reports that it serves. Raises Unavailable."""
        deadline = time.monotonic() + START_SECONDS
        while self._status() == "running" and time.monotonic() < deadline:
            ports = self._container.attrs["NetworkSettings"]["Ports"].get(PORT) or []
            addresses = [f"127.0.0.1:{port['HostPort']}" for port in ports]
            if addresses and serving(addresses[0]):
                return addresses[0]
            time.sleep(0.2)
        words, status = self.last_words(), self._status()
        self.stop()
        state = "did not become healthy" if status == "running" else f"ended ({status})"
        raise Unavailable(f"the container of {self._image} {state}: {words or 'no output'}")

    def _status(self) -> str:
        if self._container is None:
            return "not started"
        try:
            self._container.reload()
        except NotFound:
            return "gone"
        state = self._container.attrs["State"]
        return str(state["Status"]) if state["Running"] else f"exit code {state['ExitCode']}"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _engine() -> Any:
    try:
        return docker.from_env()
    except DockerException as error:
        raise Unavailable(f"the Docker engine does not answer: {first_line(error)}") from error


def _remove_orphans(engine: Any) -> None:
    """Remove containers whose orchestrator no longer lives, because it was killed."""
    living = {process_name(pid) for pid in psutil.pids()}
    for container in engine.containers.list(all=True, filters={"label": OWNER}):
        if container.labels[OWNER] not in living:
            with contextlib.suppress(NotFound, APIError):  # another orchestrator may be removing it too
                container.remove(force=True, v=True)
