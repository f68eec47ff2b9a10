"""A Ray cluster over mutual TLS, whose machines are processes of this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import ray

from tests.addresses import free_port

ROOT = Path(__file__).parents[1]
PQBENCH = (sys.executable, "-m", "pqbench_orchestrator.cli")
HOST = "127.0.0.1"
STARTED = "This command will now block"  # Ray's words
STARTING_SECONDS = 240.0  # a busy machine starts Ray slowly


class Cluster:
    """A head, which runs nothing, and workers by name, which are also the classes of their devices."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder, self._environment = folder, environment
        self._port, self._client_port = free_port(), free_port()
        self._processes: dict[str, psutil.Popen] = {}
        certificates = folder / "certificates"
        names = f"{HOST},{ray.util.get_node_ip_address()}"  # Ray's processes reach each other by the second
        subprocess.run([*PQBENCH, "certificates", str(certificates), names], check=True, capture_output=True, cwd=ROOT)
        self.own = {  # what a command needs in its environment to reach it
            "RAY_USE_TLS": "1", "RAY_TLS_CA_CERT": f"{certificates}/ca.pem",
            "RAY_TLS_SERVER_CERT": f"{certificates}/{HOST}.pem", "RAY_TLS_SERVER_KEY": f"{certificates}/{HOST}-key.pem",
            "RAY_AUTH_MODE": "disabled",  # a machine may have a token
            # Ray 2.60's server for ray:// does not start beside gRPC's support for forks.
            "GRPC_ENABLE_FORK_SUPPORT": "0",
        }  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        """Of a command that uses the cluster and what its workers use."""
        return dict(os.environ) | self._environment | self.own

    @property
    def address(self) -> str:
        return f"{HOST}:{self._port}"

    @property
    def client_address(self) -> str:
        return f"ray://{HOST}:{self._client_port}"

    def data(self, name: str) -> str:
        """A worker's data folder."""
        return str(self._folder / name)

    def start_head(self) -> None:
        """Start the head."""
        options = ["--include-dashboard=false", "--disable-usage-stats", "--object-store-memory=100000000", "--block"]
        self._start("head", sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={self._port}",
                    "--num-cpus=0", f"--ray-client-server-port={self._client_port}",
                    *options)  # fmt: skip

    def start_worker(self, name: str) -> None:
        """Start a worker, also after it was killed."""
        self._start(name, *PQBENCH, "worker", "--join", self.address, "--device", name, "--data", self.data(name))

    def worker(self, name: str) -> psutil.Process:
        return self._processes[name]

    @property
    def alive(self) -> list[str]:
        """The names of the workers that live."""
        return [name for name, one in self._processes.items() if name != "head" and one.poll() is None]

    def kill(self, name: str) -> None:
        """End a machine at once, with all that runs on it."""
        process = self._processes[name]
        if process.poll() is not None:
            return
        for one in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        """End all machines."""
        for name in reversed(self._processes):
            self.kill(name)

    def _start(self, name: str, *command: str) -> None:
        path = self._folder / f"{name}.log"
        with path.open("wb") as log:
            self._processes[name] = psutil.Popen(command, stdout=log, stderr=log, env=self.environment, cwd=ROOT)
        deadline = time.monotonic() + STARTING_SECONDS
        while STARTED not in (said := path.read_text(errors="replace")):
            if self._processes[name].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not start: {said}")
            time.sleep(0.3)


@contextmanager
def cluster_of(folder: Path, environment: dict[str, str], *workers: str) -> Iterator[Cluster]:
    """A cluster with workers of these names; ended afterwards."""
    found = Cluster(folder, environment)
    try:
        found.start_head()
        for name in workers:
            found.start_worker(name)
        yield found
    finally:
        found.close()
