"""Progress messages that a worker sends during long work."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from pqbench.common.v1.common_pb2 import Progress
from pqbench.runtime.v1.worker_pb2 import WorkerReply

PROGRESS_SECONDS = 1.0
Send = Callable[[WorkerReply], None]


class Reporter:
    """Sends progress at most once a second, because every message wakes processes that share the machine."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._last = 0.0

    def progress(self, stage: str, fraction: float) -> None:
        """Send the finished share of the work, 0 to 1, unless the last message is under a second old."""
        if time.monotonic() - self._last < PROGRESS_SECONDS:
            return
        self._last = time.monotonic()
        self._send(WorkerReply(progress=Progress(stage=stage, fraction=fraction)))

    @contextlib.contextmanager
    def alive(self, stage: str) -> Iterator[Callable[[float], None]]:
        """Send progress once a second while the context lasts; yields a function that sets the finished share, 0 to 1.

        Each message gives the service an occasion to cancel work that nobody waits for any more.
        """
        done, fraction = threading.Event(), [0.0]

        def beat() -> None:
            while not done.wait(PROGRESS_SECONDS):
                self._send(WorkerReply(progress=Progress(stage=stage, fraction=fraction[0])))

        thread = threading.Thread(target=beat)
        thread.start()
        try:
            yield lambda value: fraction.__setitem__(0, value)
        finally:
            done.set()
            thread.join()
