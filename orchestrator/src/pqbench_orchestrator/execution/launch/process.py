"""A service as a local process, which ends when the orchestrator ends, however that happens."""

from __future__ import annotations

import json
import os
import secrets
import select
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from pqbench_wire.client import Client
from pqbench_wire.errors import Unavailable
from pqbench_wire.process import spawn

START_SECONDS = 120.0
STOP_SECONDS = 10.0


class ProcessLauncher:
    """Starts `python -m MODULE` on a port that the system assigns; `python`: another environment's interpreter."""

    swapped = False

    def __init__(self, module: str, data: Path, log: Path, flags: tuple[str, ...] = (), python: str = "") -> None:
        self._module = module
        self._log = log
        self._python = python
        own = python or sys.executable
        self._command = [own, "-m", module, "--data", str(data), "--parent", str(os.getpid()), *flags]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Client:
        """Start the process and connect. Raises Unavailable with the reason, such as the last line of its log."""
        if not self._python and find_spec(self._module) is None:
            name = self._module.replace("_", "-")
            raise Unavailable(f"{name} is not installed, and no inventory names a place for it: pip install {name}")
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            # In a session of its own, Ctrl-C does not reach it: the orchestrator then ends its services in order.
            try:
                self._process, token = self._spawn(log)
            except OSError as error:
                raise Unavailable(f"{self._command[0]} cannot be started: {error}") from error
        client = Client(self._address(), token=token)
        client.wait_ready(START_SECONDS)
        return client

    def _spawn(self, log: IO[bytes]) -> tuple[subprocess.Popen[bytes], str]:
        """The process and its token, which it reads from a pipe.

        The token is needed because other users of the machine can reach the port too.
        """
        token = secrets.token_urlsafe()
        read, write = os.pipe()
        try:
            os.write(write, token.encode())
            process = spawn(
                [*self._command, "--token-pipe", str(read)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                pass_fds=(read,),
            )
        finally:
            os.close(read)
            os.close(write)
        return process, token

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def last_words(self) -> str:
        """The last line of its log."""
        return self._last_line() if self._log.is_file() else ""

    def stop(self) -> None:
        """Terminate the process, and kill it if it still runs after STOP_SECONDS."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._process = None

    def _address(self) -> str:
        """The address that the service prints as its first line. Raises Unavailable where it prints none in time."""
        assert self._process is not None and self._process.stdout is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if select.select([self._process.stdout], [], [], 0.5)[0]:
                line = self._process.stdout.readline()
                if not line:
                    break
                return json.loads(line)["listening"]
        self.stop()
        raise Unavailable(f"{self._module} did not start: {self._last_line() or 'no output'} (log: {self._log})")

    def _last_line(self) -> str:
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""
