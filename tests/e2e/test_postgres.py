"""Runs with their ledger in a real PostgreSQL database, which is killed under them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pqbench_orchestrator.store.ledger import Ledger
from pqbench_orchestrator.store.run_folder import RunFolder
from tests.postgres import Server

from .conftest import COMMAND, ROOT, Pqbench, newest_run, rows_of

pytestmark = pytest.mark.long
SAME = ("Recipe", "Target", "Outcome", "Accuracy", "Original Size", "Compressed Size", "Cell")


def test_a_run_whose_database_is_killed_ends_with_the_right_table(
    postgres_server: Server, pqbench: Pqbench, write_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    plain = write_manifest(tmp_path / "plain", trained=True)
    assert pqbench("run", plain, "--data", tmp_path / "plain/data").code == 0
    expected = [{name: row[name] for name in SAME} for row in rows_of(newest_run(tmp_path / "plain/data"))]
    manifest, data = write_manifest(tmp_path / "own", trained=True), tmp_path / "own/data"
    command = [*COMMAND, "run", str(manifest), "--data", str(data), "--ledger", postgres_server.url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    run = _begun(process, data)
    postgres_server.stop()
    _, told = process.communicate(timeout=120)  # after half a minute without its database it ends
    assert process.returncode == 2 and "Traceback" not in told, told
    assert "when the database can be used again, --continue goes on" in told
    assert pqbench("run", manifest, "--data", data, "--continue").code == 2, "it is still away"
    postgres_server.start()
    done = pqbench("run", manifest, "--data", data, "--continue")
    assert done.code == 0, done.err
    assert newest_run(data) == run.path
    assert [{name: row[name] for name in SAME} for row in rows_of(run.path)] == expected
    for command_of_a_run in ("why", "export"):
        extra = ["--out", str(tmp_path / "bundle")] if command_of_a_run == "export" else []
        again = pqbench(command_of_a_run, run, "int8@ort", *extra)
        assert again.code == 0 or "no profile" in again.err, again.err
    assert not (run / "ledger.sqlite").exists()


def test_shards_write_into_one_database_and_are_merged(
    postgres_server: Server, pqbench: Pqbench, write_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    targets = [{"name": name, "backend": "onnxruntime", "options": {"threads": 1}} for name in ("one", "two")]
    runs = []
    for number in (1, 2):
        manifest = write_manifest(tmp_path / f"{number}", trained=True, targets=targets)
        data = tmp_path / f"{number}/data"
        done = pqbench("run", manifest, "--data", data, "--shard", f"{number}/2", "--ledger", postgres_server.url)
        assert done.code == 0, done.err
        runs.append(newest_run(data))
    merged = pqbench("merge", *runs, "--data", tmp_path / "whole")
    assert merged.code == 0, merged.err
    assert {row["Target"] for row in rows_of(newest_run(tmp_path / "whole"))} == {"one", "two"}


def test_a_wrong_address_is_one_line_and_leaves_nothing(
    pqbench: Pqbench, write_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    manifest, data = write_manifest(tmp_path), tmp_path / "data"
    done = pqbench("run", manifest, "--data", data, "--ledger", "postgresql://127.0.0.1:1/none")
    assert done.code == 2 and "cannot be reached" in done.err and "Traceback" not in done.err
    assert not list((data / "experiments").glob("*"))


def _begun(process: subprocess.Popen[str], data: Path) -> RunFolder:
    """The run, when a step of it has ended."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        for folder in (data / "experiments").glob("*"):
            run = RunFolder(folder)
            if run.has_begun:
                with Ledger(run.ledger_place, read_only=True) as ledger:
                    if ledger.steps():
                        return run
        time.sleep(0.05)
    raise AssertionError("no step began")
