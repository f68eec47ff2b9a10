"""Locks of a user's own, and processes that end with those that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from pqbench_wire.errors import Cancelled, InvalidInput
from pqbench_wire.process import leashed
from pqbench_wire.shared import locks
from pqbench_wire.shared.locks import file_lock, lock_folder, machine_lock


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of this test; where this user's lock folder will be."""
    monkeypatch.setattr(locks.tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path / f"pqbench-locks-{os.getuid()}"


def test_the_lock_folder_is_its_users_own(temporary: Path) -> None:
    assert lock_folder() == temporary and temporary.stat().st_mode & 0o777 == 0o700
    temporary.chmod(0o777)
    assert lock_folder().stat().st_mode & 0o777 == 0o700


def test_a_link_in_the_place_of_the_lock_folder_is_refused(temporary: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    temporary.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidInput, match="not a folder that you own"):
        lock_folder()


def test_a_link_in_the_place_of_the_lock_is_not_followed(temporary: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("whole")
    (lock_folder() / "machine.lock").symlink_to(victim)
    with pytest.raises(OSError), machine_lock(None, exclusive=True):
        pass
    assert victim.read_text() == "whole"


def test_waiting_for_a_lock_names_its_holder_and_can_be_given_up(tmp_path: Path) -> None:
    told: list[str] = []

    def waiting(reason: str) -> None:
        told.append(reason)
        if len(told) == 3:
            raise Cancelled("enough")

    with file_lock(tmp_path / "lock"), pytest.raises(Cancelled), file_lock(tmp_path / "lock", waiting=waiting):
        pass
    assert f"held by process {os.getpid()}, since " in told[0]
    with file_lock(tmp_path / "lock", exclusive=False), file_lock(tmp_path / "lock", exclusive=False):
        pass  # shared by two


def test_a_tool_does_not_outlive_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys; from pqbench_wire.process import leashed; "
        "p = subprocess.Popen(leashed([sys.executable, '-c', 'import time; time.sleep(60)'])); print(p.pid, flush=True); p.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        tool = psutil.Process(int(parent.stdout.readline()))
        while "time.sleep(60)" not in " ".join(tool.cmdline()[:3]):  # it has become the tool
            time.sleep(0.05)
        os.kill(parent.pid, signal.SIGKILL)
    tool.wait(10)
    assert leashed(["x"])[1:3] == ["-m", "pqbench_wire.process"]


@pytest.mark.parametrize("exclusive", [True, False])
def test_who_gives_the_machine_back_does_not_overtake_those_who_wait(exclusive: bool, tmp_path: Path) -> None:
    order: list[str] = []
    waits = threading.Event()

    def other() -> None:
        with machine_lock(tmp_path, exclusive=True, waiting=lambda _: waits.set()):
            order.append("other")

    thread = threading.Thread(target=other)
    with machine_lock(tmp_path, exclusive):
        thread.start()
        assert waits.wait(10)
    with machine_lock(tmp_path, exclusive):
        order.append("again")
    thread.join()
    assert order == ["other", "again"]
