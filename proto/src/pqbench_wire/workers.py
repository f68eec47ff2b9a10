"""A service's worker processes: starting them, sending them requests, watching them, killing them.

Work that may crash, run out of memory or never end is done in a worker. A native crash, a cancellation or a freeze then
ends the worker, never the service.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from google.protobuf.message import Message

from pqbench.common.v1.common_pb2 import WorkerError
from pqbench_wire import frames
from pqbench_wire.errors import (
    Frozen,
    Internal,
    OutOfMemory,
    PqbenchError,
    WorkerCrashed,
    first_line,
    from_reason,
    reason_of,
)
from pqbench_wire.jobs import log_by_id
from pqbench_wire.process import cpu_seconds, die_with_parent, end_first_when_memory_is_short, spawn
from pqbench_wire.shared.locks import Waiting, patient

FROZEN_AFTER = 30.0  # seconds without a message and without use of the CPU
POLL = 0.5  # seconds
MOST_SPARE = 2  # temporary workers at a time, besides the long-lived one

Reply = TypeVar("Reply", bound=Message)  # with the fields progress, log and error
OnReply = Callable[[Any], None]
Idle = Callable[[], None]  # called while no reply arrives; raises Cancelled to give up the request


class Worker(Protocol):
    """What runs in a worker process."""

    def handle(self, request: Any) -> Any:
        """The reply to one request."""
        ...


class WorkerProcess(Generic[Reply]):
    """One worker process, `python -m MODULE … ARGUMENTS`. Only one thread at a time may call `ask`.

    It inherits the descriptors `inherited` under their numbers.
    """

    def __init__(
        self, module: str, reply: type[Reply], arguments: Sequence[str] = (), inherited: Sequence[int] = ()
    ) -> None:
        self._reply = reply
        self._ended = False
        self._process, self._requests, self._replies = _spawn(module, arguments, inherited)

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def ask(self, request: Message, on_reply: OnReply, idle: Idle = patient) -> Reply:
        """Send a request and return the final reply; progress and logs go to `on_reply`.

        Raises the error that the worker reports; the worker stays alive, except after OutOfMemory. Raises
        WorkerCrashed, Frozen, or what `on_reply` and `idle` raise; these end the worker.
        """
        reply: Any = self._final_reply(request, on_reply, idle)
        if reply is None:
            raise self._crash()
        if reply.HasField("error"):
            error = from_reason(reply.error.reason, reply.error.message)
            if isinstance(error, OutOfMemory):
                self.kill()
            raise error
        return reply

    def _final_reply(self, request: Message, on_reply: OnReply, idle: Idle) -> Reply | None:
        try:
            frames.write(self._requests, request, partial(self._wait, self._requests, select.POLLOUT, idle))
            heard = partial(self._wait, self._replies, select.POLLIN, idle)
            while (reply := frames.read(self._replies, self._reply, heard)) is not None:
                if not (reply.HasField("progress") or reply.HasField("log")):
                    return reply
                on_reply(reply)
        except BrokenPipeError:
            return None
        except BaseException:
            self.kill()  # the reply to a request that was given up would stay in the pipe
            raise
        return None

    def _wait(self, pipe: int, event: int, idle: Idle) -> None:
        """Wait for the pipe. Raises Frozen if the worker sends nothing and uses no CPU, WorkerCrashed if it ended."""
        begin, used, ready = time.monotonic(), -1.0, select.poll()
        ready.register(pipe, event)
        while not ready.poll(1000 * POLL):
            idle()
            if not self.alive and not ready.poll(0):  # a process that it started may hold the pipe open
                raise self._crash()
            if time.monotonic() - begin < FROZEN_AFTER:
                continue
            # CPU times are read only after a silence, because reading them could disturb a measurement.
            if used >= 0 and (now := cpu_seconds(self.pid)) == used:
                raise Frozen(f"frozen: no sign of life from the worker process {self.pid} for {FROZEN_AFTER:.0f} s")
            used = now if used >= 0 else cpu_seconds(self.pid)
            begin = time.monotonic()

    def kill(self) -> None:
        """End it at once, with the processes that it started."""
        if not self._ended:
            self._ended = True
            end_group(self._process)

    def close(self) -> None:
        """End it and free its pipes."""
        self.kill()
        os.close(self._requests)
        os.close(self._replies)

    def _crash(self) -> PqbenchError:
        try:
            code = self._process.wait(2 * POLL)
        except subprocess.TimeoutExpired:
            self.kill()
            return WorkerCrashed("the worker closed its pipes and was ended")
        self.kill()
        return _crash_of(code)


class SessionWorker(Generic[Reply]):
    """One long-lived worker, which keeps what it loaded; it is started on first use and again after a crash.

    With `ends_after_error` it is also started again after any error that it reported.
    """

    def __init__(self, start: Callable[[], WorkerProcess[Reply]], ends_after_error: bool = False) -> None:
        self._start, self._ends_after_error = start, ends_after_error
        self._worker: WorkerProcess[Reply] | None = None
        self._key = ""
        self._lock = threading.Lock()
        self._spare = threading.BoundedSemaphore(MOST_SPARE)

    def ask(
        self, key: str, request: Message, on_reply: OnReply, idle: Idle = patient, waiting: Waiting = patient
    ) -> Reply:
        """Send a request to the worker, as `WorkerProcess.ask`; waits while the worker is busy.

        `key` stands for process-wide options: a request with another key gets a fresh process.
        """
        with patiently(self._lock, waiting):
            return self._ask(key, request, on_reply, idle)

    def ask_if_free(self, key: str, request: Message, on_reply: OnReply, idle: Idle = patient) -> Reply:
        """As `ask`, but if the worker is busy, a temporary worker handles this one request."""
        if not self._lock.acquire(blocking=False):
            return self._ask_another(request, on_reply, idle)
        try:
            return self._ask(key, request, on_reply, idle)
        finally:
            self._lock.release()

    def _ask_another(self, request: Message, on_reply: OnReply, idle: Idle) -> Reply:
        while not self._spare.acquire(timeout=POLL):
            idle()
        try:
            worker = self._start()
            try:
                return worker.ask(request, on_reply, idle)
            finally:
                worker.close()
        finally:
            self._spare.release()

    def _ask(self, key: str, request: Message, on_reply: OnReply, idle: Idle) -> Reply:
        if self._worker is None or not self._worker.alive or self._key != key:
            self._stop()
            self._worker, self._key = self._start(), key
        try:
            return self._worker.ask(request, on_reply, idle)
        except PqbenchError:
            if self._ends_after_error:
                self._stop()
            raise

    def unload(self, waiting: Waiting = patient) -> None:
        """End the worker, once it is free, and with it everything that it loaded."""
        with patiently(self._lock, waiting):
            self._stop()

    def abort(self) -> None:
        """End the worker at once, even in the middle of a request."""
        if (worker := self._worker) is not None:
            worker.kill()

    def _stop(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None


@contextmanager
def patiently(lock: threading.Lock, waiting: Waiting) -> Iterator[None]:
    """Hold a lock; while another call holds it, `waiting` is called repeatedly."""
    while not lock.acquire(timeout=POLL):
        waiting("waiting for the worker, which another call uses")
    try:
        yield
    finally:
        lock.release()


def answer(make: Callable[[Callable[[Any], None]], Worker], request: type[Message], reply: type[Reply]) -> None:
    """A worker's main function: answer requests from the pipe until the service closes it.

    The command line is REQUESTS REPLIES PARENT …: two inherited pipe descriptors and the service's process id. Standard
    output stays free for what libraries print. `make` creates the worker; it receives the function that sends a reply.
    """
    requests, replies, parent = (int(argument) for argument in sys.argv[1:4])
    die_with_parent(parent)
    for descriptor in (requests, replies):
        os.set_inheritable(descriptor, False)  # tools that the worker starts must not hold them open
    end_first_when_memory_is_short()
    worker = make(lambda message: frames.write(replies, message))
    while (asked := frames.read(requests, request)) is not None:
        try:
            answered = worker.handle(asked)
        except BaseException as error:  # a user's module may raise SystemExit
            answered = reply(error=translated(error))
        frames.write(replies, answered)
    os._exit(0)  # native libraries may hang in their own clean-up


def in_fork(work: Callable[[], Reply], reply: type[Reply]) -> Reply:
    """Have a fork of this process do some work and return its reply.

    The fork has what this process imported. Of its threads it has none, so that this process must not have run any
    library that waits for its own. Raises the error that the fork reports, or WorkerCrashed.
    """
    parent, (ours, theirs) = os.getpid(), os.pipe()
    if not (child := os.fork()):
        die_with_parent(parent)
        _answer_once(work, reply, theirs)
    os.close(theirs)
    try:
        answered: Any = frames.read(ours, reply)
    finally:
        os.close(ours)
        status = os.waitpid(child, 0)[1]
    if answered is None:
        raise _crash_of(os.waitstatus_to_exitcode(status))
    if answered.HasField("error"):
        raise from_reason(answered.error.reason, answered.error.message)
    return answered


def _answer_once(work: Callable[[], Any], reply: type[Message], pipe: int) -> NoReturn:
    try:
        answered = work()
    except BaseException as error:
        answered = reply(error=translated(error))
    frames.write(pipe, answered)
    os._exit(0)


def _crash_of(code: int) -> WorkerCrashed:
    if code == -signal.SIGKILL:
        return WorkerCrashed("the worker was killed (SIGKILL: out of memory, or by hand)")
    how = f"{signal.Signals(-code).name} in native code" if code < 0 else f"exit code {code}"
    return WorkerCrashed(f"the worker crashed ({how})")


def translated(error: BaseException) -> WorkerError:
    """Any exception as a reason of the error tree and a message of one line."""
    if isinstance(error, PqbenchError):
        return WorkerError(reason=reason_of(error), message=str(error))
    if isinstance(error, MemoryError):
        return WorkerError(reason=reason_of(OutOfMemory()), message=f"out of memory: {first_line(error)}")
    return WorkerError(reason=reason_of(Internal()), message=log_by_id(error))


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads its own process group, and the group, so that tools it started do not outlive it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
    process.wait()


def _spawn(module: str, arguments: Sequence[str], inherited: Sequence[int]) -> tuple[subprocess.Popen[bytes], int, int]:
    (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
    command = [sys.executable, "-m", module, str(theirs_in), str(theirs_out), str(os.getpid()), *arguments]
    try:
        process = spawn(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            pass_fds=(theirs_in, theirs_out, *inherited),
            start_new_session=True,
        )
    except BaseException:
        os.close(ours_in)
        os.close(ours_out)
        raise
    finally:
        os.close(theirs_in)
        os.close(theirs_out)
    os.set_blocking(ours_out, False)  # a worker that does not read must not block the service
    return process, ours_out, ours_in
