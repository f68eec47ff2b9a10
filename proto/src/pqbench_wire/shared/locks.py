"""Locks by which a user's services share a machine: one of them measures, or several do other work."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pqbench_wire.errors import InvalidInput

LOCK_POLL = 0.1  # seconds
Waiting = Callable[[str], None]  # called repeatedly with what is waited for; raises Cancelled to give up


def patient(*_: object) -> None:
    """Do nothing: as a callback while waiting, it waits without limit and reports nothing."""


def lock_folder(folder: Path | None = None) -> Path:
    """The folder of the locks that a user's services on a machine share: `folder`, or one in the temporary folder.

    It is created if needed. Raises InvalidInput if the one in the temporary folder belongs to somebody else.
    """
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    own = Path(tempfile.gettempdir()) / f"pqbench-locks-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        own.mkdir(mode=0o700)
    found = own.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise InvalidInput(f"{own} is not a folder that you own: remove it, or name another with TMPDIR or --locks")
    own.chmod(0o700)
    return own


@contextlib.contextmanager
def machine_lock(folder: Path | None, exclusive: bool, waiting: Waiting = patient) -> Iterator[None]:
    """Hold the lock of the machine: exclusively to measure on it, shared to do other work.

    `folder` must be the same for all services on the machine (default: one in the temporary folder). Whoever waits
    stands in a queue of one, so that nobody who gives the lock back can take it again before those who wait.
    """
    locks = lock_folder(folder)
    with contextlib.ExitStack() as held:
        with file_lock(locks / "machine.queue", waiting=waiting):
            held.enter_context(file_lock(locks / "machine.lock", exclusive, waiting))
        yield


@contextlib.contextmanager
def file_lock(path: Path, exclusive: bool = True, waiting: Waiting = patient) -> Iterator[None]:
    """Hold a lock file, which is created if needed. Raises OSError if it is a symbolic link."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    since = time.strftime("%H:%M:%S")
    try:
        while not _locked(descriptor, exclusive):
            waiting(f"waiting for {path}, held by {_holder(descriptor)}, since {since}")
            time.sleep(LOCK_POLL)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int, exclusive: bool) -> bool:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(descriptor: int) -> str:
    """Which process holds a lock file, if the kernel shows it."""
    inode = f":{os.fstat(descriptor).st_ino} "
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and inode in line and fields[4] not in ("0", "-1"):
                return f"process {fields[4]}"
    return "another process"
