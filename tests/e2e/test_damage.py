"""Damaged, full and limited storage: what can be made again is, what cannot is one line, and nothing is lost."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import COMMAND, ROOT, Pqbench, newest_run, rows_of

pytestmark = pytest.mark.long
SAME = ("Recipe", "Outcome", "Accuracy", "Agreement (%)", "Executed Precision", "Engine (bytes)")


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, pqbench: Pqbench, write_manifest: Callable[..., Path]
) -> tuple[Path, Path]:
    """A manifest, and the data folder of its finished run."""
    folder = tmp_path_factory.mktemp("damage")
    manifest = write_manifest(folder, trained=True)
    done = pqbench("run", manifest, "--data", folder / "data")
    assert done.code == 0, done.err
    return manifest, folder / "data"


def same(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{name: row[name] for name in SAME} for row in rows]


def test_damaged_blobs_are_made_again(finished: tuple[Path, Path], tmp_path: Path, pqbench: Pqbench) -> None:
    """Every blob of a run has a wrong byte, its size and time kept; a new run that would reuse them gives the same."""
    manifest, data = finished
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    for path in (copy / "blobs").glob("*/*"):
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x55
        path.write_bytes(content)
        os.utime(path, ns=times)
    done = pqbench("run", manifest, "--data", copy)
    assert done.code == 0, done.out + done.err
    assert same(rows_of(newest_run(copy))) == same(rows_of(newest_run(data)))


@pytest.mark.parametrize("command", ["recommend", "why", "compare", "report", "export", "continue"])
def test_commands_name_a_damaged_ledger(
    command: str, finished: tuple[Path, Path], tmp_path: Path, pqbench: Pqbench
) -> None:
    run = tmp_path / "data/experiments/x"
    shutil.copytree(newest_run(finished[1]), run)
    cell = rows_of(run)[1]["Cell"]
    ledger = run / "ledger.sqlite"
    ledger.write_bytes(b"damaged" + ledger.read_bytes()[7:])
    arguments = {
        "why": [command, run, cell],
        "compare": [command, run, run],
        "export": [command, run, cell, "--out", tmp_path / "out"],
        "continue": ["run", "--continue", run],
    }.get(command, [command, run])
    done = pqbench(*arguments)
    lines = done.err.strip().splitlines()
    assert done.code == 2 and len(lines) == 1, done.err
    assert lines[0].startswith(f"error: {ledger} is damaged: ") and "restore the file" in lines[0]


def test_records_of_another_content_are_made_again(
    finished: tuple[Path, Path], tmp_path: Path, pqbench: Pqbench
) -> None:
    """Valid JSON that nobody recorded: commands name it, --continue makes it again."""
    manifest, data = finished
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    run = newest_run(copy)
    cell = rows_of(run)[1]["Cell"]
    with sqlite3.connect(run / "ledger.sqlite") as db:
        db.execute("UPDATE cells SET row = '{}'")
        db.execute("UPDATE steps SET result = '[]' WHERE kind IN ('build', 'score')")
    db.close()
    for arguments in (["why", run, cell], ["compare", run, run], ["report", run], ["recommend", run]):
        done = pqbench(*arguments)
        assert done.code == 2 and len(done.err.strip().splitlines()) == 1, done.err
        assert "is damaged" in done.err and "--continue" in done.err
    again = pqbench("run", manifest, "--continue", "--data", copy)
    assert again.code == 0 and "was damaged: it is made again" in again.out + again.err, again.out + again.err
    assert same(rows_of(run)) == same(rows_of(newest_run(data)))


def test_a_ledger_that_lost_everything_is_not_begun_anew(
    finished: tuple[Path, Path], tmp_path: Path, pqbench: Pqbench
) -> None:
    manifest, data = finished
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    run = newest_run(copy)
    (run / "ledger.sqlite").write_bytes(b"")
    before = (run / "results.csv").read_bytes()
    done = pqbench("run", manifest, "--continue", "--data", copy)
    assert done.code == 2 and "is empty, but the run had begun" in done.err
    assert (run / "results.csv").read_bytes() == before


def test_a_file_size_limit_is_one_line_and_the_run_can_go_on(
    finished: tuple[Path, Path], tmp_path: Path, pqbench: Pqbench
) -> None:
    """As a full disk: what does not fit fails with the system's words; with room the run is finished."""
    manifest, _ = finished

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))  # less than a checkpoint

    command = [*COMMAND, "run", str(manifest), "--data", str(tmp_path / "data")]
    done = subprocess.run(command, cwd=ROOT, preexec_fn=limited, capture_output=True, text=True, timeout=300)
    told = done.stdout + done.stderr
    assert done.returncode in (1, 2) and "File too large" in told, told
    assert "Traceback" not in told
    again = pqbench("run", manifest, "--continue", "--data", tmp_path / "data")
    assert again.code == 0, again.out + again.err
    assert {row["Outcome"] for row in rows_of(newest_run(tmp_path / "data"))} == {"ok"}
