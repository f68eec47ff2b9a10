"""Child processes that end with their parent; names and CPU times of processes; versions of code."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pqbench_wire.errors import InvalidInput

PLUGINS = "PQBENCH_PLUGINS"  # environment variable: a folder of the user's own plug-ins
PR_SET_PDEATHSIG = 1
_SPAWNER = ThreadPoolExecutor(1, thread_name_prefix="spawner")


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent, process `parent`, ends (Linux)."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # the parent ended before the call above
        os._exit(1)


def spawn(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """`subprocess.Popen`, for children that die with their parent.

    For the kernel, a child's parent is the *thread* that started it. Therefore a single thread, which
    lives as long as the process, starts all children.
    """
    return _SPAWNER.submit(lambda: subprocess.Popen(command, **options)).result()


def process_name(pid: int) -> str:
    """A unique name for a process: its id, which may be reused later, and its start time. Empty if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    state, start = fields[0], fields[19]
    return "" if state == "Z" else f"{pid}-{start}"  # clock ticks between the system's start and the process's


def own_plugins() -> Path | None:
    """The folder of a user's own plug-ins, from the environment variable PQBENCH_PLUGINS; None if it is not set.

    Raises InvalidInput where there is no such folder.
    """
    name = os.environ.get(PLUGINS)
    if name and not Path(name).is_dir():
        raise InvalidInput(f"{PLUGINS}={name}: there is no such folder")
    return Path(name) if name else None


@functools.cache
def source_version(package: str) -> str:
    """A distribution's version with a digest of its source and of the user's plug-ins for it."""
    spec = find_spec(package)
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    if added := own_plugins():
        kinds = {kind.name for folder in folders for kind in folder.iterdir()}
        folders += [kind for kind in added.iterdir() if kind.is_dir() and kind.name in kinds]
    digest = hashlib.sha256()
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"{metadata.version(package.replace('_', '-'))}+{digest.hexdigest()[:12]}"


def versions_of(*packages: str) -> dict[str, str]:
    """The versions of those distributions that are installed."""
    found = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def required_by(*distributions: str) -> list[str]:
    """The distributions that these require, for any of their extras; of one that is not installed, none."""
    found: set[str] = set()
    for name in distributions:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found |= {re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in metadata.requires(name) or ()}
    return sorted(found)


def cpu_seconds(session: int) -> float:
    """CPU seconds that the processes of a session, and their children that ended, have used so far (Linux)."""
    ticks = 0
    for process in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # ended meanwhile
            fields = process.read_text(errors="replace").rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15])) if int(fields[3]) == session else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def end_first_when_memory_is_short() -> None:
    """Have the kernel choose this process before its service when memory runs out (Linux)."""
    with contextlib.suppress(OSError):  # not where /proc is read-only
        Path("/proc/self/oom_score_adj").write_text("1000")


def leashed(command: Sequence[str]) -> list[str]:
    """A command line that runs a vendor tool such that it ends with the calling process, however that ends."""
    return [sys.executable, "-m", "pqbench_wire.process", str(os.getpid()), *command]


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606  # the command itself, without a shell
