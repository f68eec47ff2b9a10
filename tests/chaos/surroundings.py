"""What a run needs around it: a database, an object store, a disk; each real, and each can fail."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tests.addresses import free_port
from tests.chaos.proxy import Proxy
from tests.postgres import Server, programs, running

if TYPE_CHECKING:
    from tests.ray_cluster import Cluster

DISK_MEGABYTES = 300
MACHINES = ("one", "two")  # of the Ray cluster
BUCKET = "pqbench"
S3 = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true"}
STARTING_SECONDS = 60.0
SERVICES = ("pqbench_compressor", "pqbench_runtime")  # how the names of the services' and their workers' modules begin


class ObjectStore:
    """moto's S3 server, which forgets everything when it ends."""

    def __init__(self) -> None:
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.proxy = Proxy(self._port)

    @property
    def environment(self) -> dict[str, str]:
        return S3 | {"AWS_ENDPOINT": f"http://127.0.0.1:{self.proxy.port}"}

    def start(self) -> None:
        """Start it with an empty bucket."""
        command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(self._port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + STARTING_SECONDS
        make = urllib.request.Request(f"http://127.0.0.1:{self._port}/{BUCKET}", method="PUT")
        while True:
            try:
                urllib.request.urlopen(make, timeout=5).close()
                return
            except (urllib.error.URLError, OSError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def stop(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Disk:
    """A small file system in memory, where this user may mount one; else a folder, which cannot be filled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "tmpfs", str(folder)]
        self.can_be_full = os.getuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0

    def fill(self) -> None:
        """Leave no room."""
        with contextlib.suppress(OSError), (self.folder / "filling").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))

    def free(self) -> None:
        """Make room again."""
        (self.folder / "filling").unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount it."""
        if self.can_be_full:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=False)


class Surroundings:
    """All of them, working until something is done to them."""

    def __init__(self, database: Server | None, store: ObjectStore, disk: Disk, cluster: Cluster | None) -> None:
        self.database, self.store, self.disk, self.cluster = database, store, disk, cluster
        self.database_proxy = Proxy(database.port) if database is not None else None

    @property
    def machines(self) -> Cluster:
        """The Ray cluster, for runs on it."""
        if self.cluster is None:
            raise RuntimeError("there is no Ray cluster")
        return self.cluster

    def renew_machines(self, seconds: float) -> None:
        """Start the workers anew, with empty folders. Raises RuntimeError for a service that a run left there."""
        for name in MACHINES:
            end = time.monotonic() + seconds
            while left := _services_in(self.machines.data(name)):
                if time.monotonic() > end:
                    raise RuntimeError(f"machine {name} still has {left}")
                time.sleep(0.2)
            self.machines.kill(name)
            shutil.rmtree(self.machines.data(name))
            self.machines.start_worker(name)

    def options(self, run: str, on_ray: bool = False, again: bool = False) -> list[str]:
        """Those of `pqbench run`; each run has a store of its own, in which it finds only what it did itself."""
        found = ["--store", f"s3://{BUCKET}/{run}", *(["--continue"] if again else [])]
        if on_ray:
            found += ["--on", self.machines.address]
        has_ledger = again and not on_ray  # a run remembers it
        if self.database_proxy is not None and not has_ledger:
            found += ["--ledger", f"postgresql://postgres@127.0.0.1:{self.database_proxy.port}/postgres"]
        return found

    @property
    def environment(self) -> dict[str, str]:
        return dict(os.environ) | self.store.environment | (self.cluster.own if self.cluster else {})


def _services_in(data: str) -> list[str]:
    """The command lines of services and their workers that use a data folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if any(word.startswith(SERVICES) for word in words) and any(data in word for word in words):
                found.append(" ".join(words))
    return found


@contextlib.contextmanager
def surroundings(folder: Path) -> Iterator[Surroundings]:
    """Start everything; end it afterwards. Without PostgreSQL ledgers are files, without Ray there is no cluster."""
    with contextlib.ExitStack() as stack:
        found = programs()
        database = stack.enter_context(running(found)) if found is not None else None
        store, disk = ObjectStore(), Disk(folder / "disk")
        stack.callback(disk.close)
        stack.callback(store.stop)
        store.start()
        cluster = None
        if importlib.util.find_spec("ray") is not None:
            from tests.ray_cluster import cluster_of

            cluster = stack.enter_context(cluster_of(folder, store.environment, *MACHINES))
        yield Surroundings(database, store, disk, cluster)
