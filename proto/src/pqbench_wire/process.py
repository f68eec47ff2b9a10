"""Processes that end with their parent, identify their code, and share a machine fairly."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
_SPAWNER = ThreadPoolExecutor(1, thread_name_prefix="spawner")


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent, process `parent`, ends (Linux)."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it ended before the kernel was told
        os._exit(1)


def spawn(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """`subprocess.Popen`, for children that die with their parent.

    The kernel takes the *thread* that started a child for its parent, so one thread that lives as
    long as the process starts them all.
    """
    return _SPAWNER.submit(lambda: subprocess.Popen(command, **options)).result()


def process_name(pid: int) -> str:
    """A name that no other process ever has: an id is used again, so its start goes with it. Empty if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    state, start = fields[0], fields[19]
    return "" if state == "Z" else f"{pid}-{start}"  # the start in clock ticks since that of the system


@functools.cache
def source_version(package: str) -> str:
    """The distribution's version and a digest of its source: a changed line is another tool."""
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    digest = hashlib.sha256()
    for path in sorted(p for folder in folders for p in Path(folder).rglob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"{metadata.version(package.replace('_', '-'))}+{digest.hexdigest()[:12]}"


def versions_of(*packages: str) -> dict[str, str]:
    """Versions of those installed distributions that are there."""
    found = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


@contextlib.contextmanager
def machine_lock(folder: Path | None, exclusive: bool) -> Iterator[None]:
    """Hold the machine: exclusively to measure on it, shared to do anything else.

    `folder` is one that all parties on the machine see (default: in the temporary folder).
    """
    folder = folder or Path(tempfile.gettempdir()) / f"pqbench-locks-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / "machine.lock", exclusive):
        yield


@contextlib.contextmanager
def file_lock(path: Path, exclusive: bool = True) -> Iterator[None]:
    """Hold a lock file; it is made where there is none."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
