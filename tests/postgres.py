"""A real PostgreSQL server on loopback, for the tests that need one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.addresses import free_port

STARTING_SECONDS = 30.0


class Server:
    """A server with a database of its own, in a folder."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder, self.port = programs, folder, free_port()

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it, also after `stop`, with what was stored."""
        self._control("start", "--log", str(self._folder / "log"), "--options", f"-p {self.port} -k {self._folder}")

    def stop(self) -> None:
        """End it at once, as a crash would."""
        self._control("stop", "--mode", "immediate")

    def make(self) -> None:
        """Make the database."""
        self._run("initdb", "--pgdata", str(self._data), "--username", "postgres", "--auth", "trust", "--no-sync")

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "--pgdata", str(self._data), "--wait", *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []  # it refuses to run as root
        command = [*as_user, str(self._programs / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=STARTING_SECONDS, cwd="/")


def programs() -> Path | None:
    """The folder of PostgreSQL's server programs; None where it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    path = shutil.which("initdb") or (str(found[-1]) if found else "")
    return Path(path).parent if path else None


@contextmanager
def running(programs: Path) -> Iterator[Server]:
    """A server that is ended afterwards."""
    with tempfile.TemporaryDirectory(prefix="pqbench-postgres-") as name:
        folder = Path(name)
        if os.getuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        server = Server(programs, folder)
        server.make()
        server.start()
        try:
            yield server
        finally:
            with suppress(subprocess.SubprocessError):  # a test may have ended it
                server.stop()
