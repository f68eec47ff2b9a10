"""Jobs: equal requests share one execution, results survive, failures are not kept."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pqbench.common.v1.common_pb2 import Progress
from pqbench.runtime.v1.runtime_pb2 import PredictEvent, PredictRequest, PredictResult
from pqbench_wire import jobs, results
from pqbench_wire.errors import Cancelled, Failed, Internal, NotFound
from pqbench_wire.jobs import Jobs

REQUEST = PredictRequest()
RESULT = PredictEvent(result=PredictResult(seconds=1.5))


class Present:
    """A listener, there until it goes."""

    def __init__(self) -> None:
        self.there = True
        self.callbacks: list[Callable[[], None]] = []

    def is_active(self) -> bool:
        return self.there

    def add_callback(self, callback: Callable[[], None]) -> bool:
        self.callbacks.append(callback)
        return True

    def go(self) -> None:
        self.there = False
        for callback in self.callbacks:
            callback()


def make(folder: Path, salt: str = "") -> Jobs[PredictEvent]:
    return Jobs(folder, PredictEvent, lambda event: True, salt)


def test_two_clients_join_one_job(tmp_path: Path) -> None:
    started, go, calls = threading.Event(), threading.Event(), []

    def work(emit: jobs.Emit[PredictEvent]) -> PredictEvent:
        calls.append(1)
        emit(PredictEvent(progress=Progress(fraction=0.5)))
        started.set()
        assert go.wait(10)
        return RESULT

    running = make(tmp_path)
    answers: list[list[PredictEvent]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(list(running.stream(REQUEST, work, Present()))))
        for _ in range(2)
    ]
    threads[0].start()
    assert started.wait(10)
    threads[1].start()
    go.set()
    for thread in threads:
        thread.join(10)
    assert len(calls) == 1
    assert [answer[-1] for answer in answers] == [RESULT, RESULT]


def test_a_finished_result_survives_a_restart_but_not_an_upgrade(tmp_path: Path) -> None:
    calls: list[int] = []

    def work(emit: jobs.Emit[PredictEvent]) -> PredictEvent:
        calls.append(1)
        return RESULT

    for folder_user in (make(tmp_path), make(tmp_path), make(tmp_path, salt="new version")):
        assert list(folder_user.stream(REQUEST, work, Present()))[-1] == RESULT
    assert len(calls) == 2


def test_a_result_whose_blobs_are_gone_is_made_again(tmp_path: Path) -> None:
    calls: list[int] = []

    def work(emit: jobs.Emit[PredictEvent]) -> PredictEvent:
        calls.append(1)
        return RESULT

    forgetful: Jobs[PredictEvent] = Jobs(tmp_path, PredictEvent, lambda event: False, "")
    list(forgetful.stream(REQUEST, work, Present()))
    list(forgetful.stream(REQUEST, work, Present()))
    assert len(calls) == 2


def test_failures_reach_the_client_and_are_not_kept(tmp_path: Path) -> None:
    running = make(tmp_path)

    def missing(emit: jobs.Emit[PredictEvent]) -> PredictEvent:
        raise NotFound("not there")

    def broken(emit: jobs.Emit[PredictEvent]) -> PredictEvent:
        raise ZeroDivisionError("by zero")

    with pytest.raises(NotFound, match="not there"):
        list(running.stream(REQUEST, missing, Present()))
    with pytest.raises(Failed, match="ZeroDivisionError: by zero"):
        list(running.stream(REQUEST, broken, Present()))
    assert list(running.stream(REQUEST, lambda emit: RESULT, Present()))[-1] == RESULT


def test_a_listener_hears_that_the_service_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "HEARTBEAT", 0.05)
    go = threading.Event()

    def work(emit: jobs.Emit[PredictEvent]) -> PredictEvent:
        assert go.wait(10)
        return RESULT

    events = make(tmp_path).stream(REQUEST, work, Present())
    assert [next(events).WhichOneof("event") for _ in range(3)] == ["heartbeat"] * 3
    go.set()
    assert list(events)[-1] == RESULT


def test_a_listener_that_goes_away_waits_no_longer(tmp_path: Path) -> None:
    listener, ended, go = Present(), threading.Event(), threading.Event()

    def work(emit: jobs.Emit[PredictEvent]) -> PredictEvent:
        assert go.wait(10)
        return RESULT

    def listen() -> None:
        list(make(tmp_path).stream(REQUEST, work, listener))
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    while not listener.callbacks:
        threading.Event().wait(0.01)
    listener.go()
    assert ended.wait(jobs.HEARTBEAT / 2)
    go.set()


def test_an_exit_in_a_job_ends_it_with_an_error_that_the_log_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def leaving(emit: jobs.Emit[PredictEvent]) -> PredictEvent:
        raise SystemExit(3)

    with pytest.raises(Internal, match=r"SystemExit: 3 \(error [0-9a-f]{8} in the service's log\)") as caught:
        list(make(tmp_path).stream(REQUEST, leaving, Present()))
    number = str(caught.value).partition("(error ")[2][:8]
    assert number in caplog.text and "in leaving" in caplog.text


def test_a_damaged_result_is_made_again(tmp_path: Path) -> None:
    calls: list[int] = []

    def work(emit: jobs.Emit[PredictEvent]) -> PredictEvent:
        calls.append(1)
        return RESULT

    list(make(tmp_path).stream(REQUEST, work, Present()))
    kept = next(path for path in tmp_path.iterdir() if not path.name.startswith("."))
    data = bytearray(kept.read_bytes())
    data[-3] ^= 1  # another time, which a message may hold as well
    kept.write_bytes(data)
    assert list(make(tmp_path).stream(REQUEST, work, Present()))[-1] == RESULT
    assert len(calls) == 2


def test_the_oldest_results_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "KEPT", 2)
    running = make(tmp_path)
    for number in range(4):
        list(running.stream(PredictRequest(first=number), lambda emit: RESULT, Present()))
        os.utime(max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns), (number, number))
    assert sorted(path.stat().st_mtime for path in tmp_path.iterdir()) == [2, 3]


def test_a_job_that_nobody_hears_is_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "ABANDONED_AFTER", 0.05)
    started, ended = threading.Event(), threading.Event()

    def work(emit: jobs.Emit[PredictEvent]) -> PredictEvent:
        try:
            for _ in range(1000):
                emit(PredictEvent(progress=Progress(fraction=0.1)))
                started.set()
                threading.Event().wait(0.01)
        except Cancelled:
            ended.set()
            raise
        return RESULT

    events = make(tmp_path).stream(REQUEST, work, Present())
    next(events)
    assert started.wait(10)
    events.close()  # type: ignore[attr-defined]
    assert ended.wait(10)
