"""Joinable jobs: a request's digest is its key, and equal requests share one execution.

A client that lost its connection sends the request again. It then joins the running job, or gets
the finished result from disk, even after a restart of the service.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from google.protobuf.message import Message

from pqbench.common.v1.common_pb2 import Heartbeat, Progress
from pqbench_wire.errors import Cancelled, Internal, PqbenchError, first_line
from pqbench_wire.results import Results

log = logging.getLogger(__name__)
ABANDONED_AFTER = 30.0  # seconds without a listener after which a job is cancelled
WAITING = "wait"  # the stage of progress events that mean: the job waits for something that others hold
HEARTBEAT = 5.0  # seconds without an event after which a listener gets a heartbeat

Event = TypeVar("Event", bound=Message)


class Emit(Protocol[Event]):  # type: ignore[misc]
    """Sends an event to all listeners; raises Cancelled once there were none for ABANDONED_AFTER seconds."""

    def __call__(self, event: Event) -> None: ...

    def check(self) -> None:
        """Raise Cancelled once there were no listeners for ABANDONED_AFTER seconds."""
        ...


class Listener(Protocol):
    """Who receives a job's events: the part of `grpc.ServicerContext` that is needed."""

    def is_active(self) -> bool: ...

    def add_callback(self, callback: Callable[[], None]) -> bool: ...


class Jobs(Generic[Event]):
    """The jobs of one kind of long call. `event` is the streamed message with a `result` field.

    Finished results are stored as `Results` with this `salt`. `usable` tells whether a stored one may still be returned
    (its blobs exist).
    """

    def __init__(self, folder: Path, event: type[Event], usable: Callable[[Event], bool], salt: str) -> None:
        self._results = Results(folder, event, salt)
        self._event = event
        self._usable = usable
        self._running: dict[str, _Job[Event]] = {}
        self._lock = threading.Lock()

    def stream(
        self, request: Message, work: Callable[[Emit[Event]], Event], listener: Listener, salt: str = ""
    ) -> Iterator[Event]:
        """The events of the job for `request`, the last one its result; starts `work` unless it runs or is finished.

        The events end early when the listener goes away. Raises the PqbenchError of `work`, or Internal for
        another exception. `salt` becomes part of the key, in addition to the constructor's: what else decides this
        request's result.
        """
        key = self._results.key(request, salt)
        with self._lock:
            job = self._running.get(key)
            finished = self._finished(key) if job is None else None
            is_new = job is None and finished is None
            if job is None:
                job = _Job()
            if is_new:
                self._running[key] = job
            job.join()
        if finished is not None:
            yield finished
            return
        if is_new:
            threading.Thread(target=self._run, args=(key, job, work), daemon=True, name=f"job-{key[:8]}").start()
        try:
            yield from job.events(listener, self._event)
        finally:
            job.leave()

    def _run(self, key: str, job: _Job[Event], work: Callable[[Emit[Event]], Event]) -> None:
        try:
            result = work(job)
            self._results.put(key, result)
            job.finish(result, None)
        except PqbenchError as error:
            job.finish(None, error)
        except BaseException as error:  # even SystemExit: it would end the thread silently, and listeners would wait
            job.finish(None, Internal(log_by_id(error)))
        finally:
            with self._lock:
                del self._running[key]

    def _finished(self, key: str) -> Event | None:
        event = self._results.get(key)
        return event if event is not None and event.HasField("result") and self._usable(event) else None


class _Job(Generic[Event]):
    def __init__(self) -> None:
        self._listeners = 0
        self._left_at = self._told = 0.0  # monotonic seconds
        self._events: list[Event] = []
        self._error: PqbenchError | None = None
        self._done = False
        self._changed = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._changed:
            self.check()
            if self._events[-1:] != [event] or time.monotonic() - self._told > HEARTBEAT:
                self._told = time.monotonic()
                self._events.append(event)
                self._changed.notify_all()

    def check(self) -> None:
        if self._listeners == 0 and time.monotonic() - self._left_at > ABANDONED_AFTER:
            raise Cancelled(f"nobody has listened for {ABANDONED_AFTER:.0f} s")

    def join(self) -> None:
        with self._changed:
            self._listeners += 1

    def leave(self) -> None:
        with self._changed:
            self._left_at = time.monotonic()
            self._listeners -= 1

    def finish(self, result: Event | None, error: PqbenchError | None) -> None:
        with self._changed:
            if result is not None:
                self._events.append(result)
            self._error = error
            self._done = True
            self._changed.notify_all()

    def events(self, listener: Listener, event: type[Event]) -> Iterator[Event]:
        seen = 0
        listener.add_callback(self._wake)
        while listener.is_active():
            with self._changed:
                if seen == len(self._events) and not self._done:
                    self._changed.wait(HEARTBEAT)
                fresh, done, error = self._events[seen:], self._done, self._error
            yield from fresh or [event(heartbeat=Heartbeat())]
            seen += len(fresh)
            if done:
                if error is not None:
                    raise error
                return

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


def while_active(listener: Listener) -> Callable[..., None]:
    """A function, of any arguments, that raises Cancelled once the caller is gone or its deadline has passed."""

    def check(*_: object) -> None:
        if not listener.is_active():
            raise Cancelled("the caller gave up")

    return check


class Tell(Generic[Event]):
    """Sends a job's listeners the progress and logs of its worker, and what the job waits for.

    `idle` raises Cancelled once there were no listeners for ABANDONED_AFTER seconds.
    """

    def __init__(self, event: type[Event], emit: Emit[Event]) -> None:
        self._event = event
        self._emit: Emit[Event] = emit
        self.idle: Callable[[], None] = emit.check

    def reply(self, reply: Any) -> None:
        """Forward a worker's progress or log."""
        content = {"progress": reply.progress} if reply.HasField("progress") else {"log": reply.log}
        self._emit(self._event(**content))

    def waiting(self, reason: str) -> None:
        """Report what the job waits for."""
        self._emit(self._event(progress=Progress(stage=WAITING, message=reason)))


def log_by_id(error: BaseException) -> str:
    """Log an exception with its traceback; returns one line about it, with its id in the log.

    Exceptions with equal tracebacks have equal ids, so that they can be counted.
    """
    trace = "".join(traceback.format_exception(error))
    number = hashlib.sha256(trace.encode()).hexdigest()[:8]
    log.error("error %s\n%s", number, trace)
    return f"{type(error).__name__}: {first_line(error)} (error {number} in the service's log)"
