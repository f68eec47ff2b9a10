"""What a worker says of long work while it goes on."""

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
    """Sends progress, rarely: every message wakes processes that share the machine."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._last = 0.0

    def progress(self, stage: str, fraction: float) -> None:
        """Say how far the work is."""
        if time.monotonic() - self._last < PROGRESS_SECONDS:
            return
        self._last = time.monotonic()
        self._send(WorkerReply(progress=Progress(stage=stage, fraction=fraction)))

    @contextlib.contextmanager
    def alive(self, stage: str) -> Iterator[Callable[[float], None]]:
        """Report long work once in a while, so that whoever no longer wants it can say so; yields `report`."""
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
