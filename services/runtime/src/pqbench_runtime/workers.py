"""The service's side of its workers: spawn, talk, kill.

A native crash, an out-of-memory kill or a cancel ends a worker, never the service.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from pqbench.runtime.v1.worker_pb2 import WorkerReply, WorkerRequest
from pqbench_runtime import frames
from pqbench_wire.errors import OutOfMemory, PqbenchError, WorkerCrashed, from_reason
from pqbench_wire.process import spawn


class WorkerProcess:
    """One worker process. `ask` is for one thread at a time."""

    def __init__(self, blobs: Path) -> None:
        self._process, self._requests, self._replies = _spawn(blobs)

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def ask(self, request: WorkerRequest, on_reply: Callable[[WorkerReply], None]) -> WorkerReply:
        """The final reply; progress and logs go to `on_reply`. Raises the worker's error, or WorkerCrashed."""
        reply = self._final_reply(request, on_reply)
        if reply is None:
            raise self._crash()
        if reply.HasField("error"):
            error = from_reason(reply.error.reason, reply.error.message)
            if isinstance(error, OutOfMemory):
                self.kill()
            raise error
        return reply

    def _final_reply(self, request: WorkerRequest, on_reply: Callable[[WorkerReply], None]) -> WorkerReply | None:
        try:
            frames.write(self._requests, request)
            while (reply := frames.read(self._replies, WorkerReply)) is not None:
                if not (reply.HasField("progress") or reply.HasField("log")):
                    return reply
                on_reply(reply)
        except BrokenPipeError:
            return None
        except BaseException:
            self.kill()  # a question given up (cancelled) would leave its answer in the pipe
            raise
        return None

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it and free its pipes."""
        self.kill()
        os.close(self._requests)
        os.close(self._replies)

    def _crash(self) -> PqbenchError:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return WorkerCrashed("the worker was killed (SIGKILL: out of memory, or by hand)")
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return WorkerCrashed(f"the worker crashed ({how}) in native code")


class SessionWorker:
    """The one worker that measures and predicts; started on first use and after a crash."""

    def __init__(self, blobs: Path) -> None:
        self._blobs = blobs
        self._worker: WorkerProcess | None = None
        self._key = ""
        self._lock = threading.Lock()

    def ask(self, key: str, request: WorkerRequest, on_reply: Callable[[WorkerReply], None]) -> WorkerReply:
        """Ask the worker of `key`: another key (other process-wide options) gets a fresh process."""
        with self._lock:
            if self._worker is None or not self._worker.alive or self._key != key:
                self._stop()
                self._worker, self._key = WorkerProcess(self._blobs), key
            return self._worker.ask(request, on_reply)

    def unload(self) -> None:
        """End the worker and with it all loaded engines."""
        with self._lock:
            self._stop()

    def abort(self) -> None:
        """End the worker at once, also in the middle of a question."""
        if (worker := self._worker) is not None:
            worker.kill()

    def _stop(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None


def _spawn(blobs: Path) -> tuple[subprocess.Popen[bytes], int, int]:
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    command = [
        sys.executable,
        "-m",
        "pqbench_runtime.worker",
        str(theirs_in),
        str(theirs_out),
        str(os.getpid()),
        str(blobs),
    ]
    try:
        process = spawn(command, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), pass_fds=(theirs_in, theirs_out))
    finally:
        os.close(theirs_in)
        os.close(theirs_out)
    return process, ours_out, ours_in
