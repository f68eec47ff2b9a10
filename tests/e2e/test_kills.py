"""SIGKILL of any process in any kind of step, then --continue: the same table, nothing finished done twice, no orphans."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from .conftest import COMMAND, ROOT, TINY, Pqbench, newest_run, reuse, rows_of

pytestmark = pytest.mark.long
# Long enough to be met at work: a few seconds each of training, predicting and measuring.
SLOW: dict[str, Any] = {
    "name": "kills",
    "models": [{"model": "digits/resnet", "config": {"epochs": 4}}],
    "measure": TINY["measure"] | {"min_seconds": 1.0, "max_seconds": 1.0},
}
SAME = ("Model", "Recipe", "Target", "Batch Size", "Outcome", "Reason", "Accuracy", "Agreement (%)", "SQNR (dB)", "Precision",
        "Executed Precision", "Original Size", "Compressed Size", "Parameters", "Non-zeros", "MACs", "Settings", "Cell")  # fmt: skip
MODULES = {"compressor": "pqbench_compressor", "runtime": "pqbench_runtime", "worker": "pqbench_runtime.worker"}
BEFORE = ("prepare", "compress")
CASES = [
    *(("orchestrator", kind) for kind in ("prepare", "compress", "build", "predict", "measure")),
    ("compressor", "compress"),
    *(("runtime", kind) for kind in ("build", "measure")),
    *(("worker", kind) for kind in ("predict", "measure")),
    *(
        pytest.param(victim, kind, marks=pytest.mark.more)
        for victim, kind in (("orchestrator", "score"), ("runtime", "predict"), ("worker", "build"))
    ),
]


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, pqbench: Pqbench, write_manifest: Callable[..., Path]
) -> Path:
    """A run that nothing disturbed; its data folder."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = pqbench("run", write_manifest(folder, **SLOW), "--data", folder / "data")
    assert done.code == 0, done.err
    return folder / "data"


@pytest.mark.parametrize(("victim", "kind"), CASES)
def test_kill_and_continue(
    victim: str, kind: str, undisturbed: Path, tmp_path: Path, pqbench: Pqbench, write_manifest: Callable[..., Path]
) -> None:
    manifest, data = write_manifest(tmp_path, **SLOW), tmp_path / "data"
    if kind not in BEFORE:  # what comes before needs no second proof
        reuse(undisturbed, data, BEFORE if kind == "build" else (*BEFORE, "build", "verify"))
    process = subprocess.Popen(
        [*COMMAND, "run", str(manifest), "--data", str(data)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT,
    )  # fmt: skip
    family = _kill_during(process, data, victim, kind)
    process.wait(timeout=180)
    _assert_gone(family, seconds=15)
    assert "Traceback" not in "".join(p.read_text(errors="replace") for p in newest_run(data).glob("logs/*"))
    done = pqbench("run", manifest, "--continue", "--data", data)
    assert done.code == 0, done.out + done.err
    run = newest_run(data)
    assert len(list((data / "experiments").iterdir())) == 1
    expected = [{name: row[name] for name in SAME} for row in rows_of(newest_run(undisturbed))]
    assert [{name: row[name] for name in SAME} for row in rows_of(run)] == expected
    outcomes = _outcomes(run)
    finished = Counter(key for key, _, outcome in outcomes if outcome in ("ok", "cached"))
    assert set(finished.values()) == {1}, "no finished step ran twice"
    done_keys: set[str] = set()
    for key, label, outcome in outcomes:
        assert not (outcome == "started" and key in done_keys), f"{label} was started again after it had finished"
        done_keys |= {key} if outcome in ("ok", "cached") else set()


def _kill_during(process: subprocess.Popen[bytes], data: Path, victim: str, kind: str) -> list[psutil.Process]:
    """Kill the victim as soon as a step of this kind has started; returns every process of the run."""
    deadline = time.monotonic() + 180
    while True:
        assert time.monotonic() < deadline and process.poll() is None, f"no {kind} was met"
        if last_started(data) == kind:
            family = psutil.Process(process.pid).children(recursive=True)
            pid = process.pid if victim == "orchestrator" else pid_of(family, victim)
            if pid is not None and last_started(data) == kind:
                os.kill(pid, signal.SIGKILL)
                return [psutil.Process(process.pid), *family] if victim == "orchestrator" else []
        time.sleep(0.002)


def last_started(data: Path) -> str | None:
    """The kind of the step at work, if any."""
    ledgers = list(data.glob("experiments/*/ledger.sqlite"))
    if not ledgers:
        return None
    try:
        with sqlite3.connect(f"file:{ledgers[0]}?mode=ro", uri=True) as db:
            row = db.execute("SELECT kind, outcome FROM steps ORDER BY id DESC LIMIT 1").fetchone()
    except sqlite3.OperationalError:  # the table is not there yet
        return None
    finally:
        if "db" in locals():
            db.close()
    return row[0] if row and row[1] == "started" else None


def pid_of(family: list[psutil.Process], victim: str) -> int | None:
    """The victim among a run's processes; of workers the one that computes: others wait, or are about to be ended."""
    for process in family:
        try:
            if MODULES[victim] in process.cmdline() and (victim != "worker" or process.cpu_percent(0.2) > 10):
                return process.pid
        except psutil.Error:
            continue
    return None


def _assert_gone(family: list[psutil.Process], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while alive := [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline, f"orphans: {alive}"
        time.sleep(0.1)


def _outcomes(run: Path) -> list[tuple[str, str, str]]:
    with sqlite3.connect(run / "ledger.sqlite") as db:
        rows = db.execute("SELECT key, label, outcome FROM steps ORDER BY id").fetchall()
    db.close()
    return rows
