"""A small run, and ways to damage a file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from pqbench_orchestrator.store.ledger import FILE, Ledger

from .cells import LEAST

ROW = LEAST


def a_run(folder: Path, result: dict[str, object] | None = None) -> Path:
    """A folder with a small ledger."""
    folder.mkdir(parents=True)
    with Ledger(folder / FILE) as ledger:
        ledger.begin("m", 1)
        ledger.record_plan({"c": {"build": "k"}})
        ledger.record(key="k", kind="build", label="l", place="p", outcome="ok", result=result or {})
        ledger.record_cells([("c", "ok", "", ROW)])
    return folder


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def of_another_kind(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE other (x)")
    db.close()


DAMAGES: list[Callable[[Path], object]] = [
    lambda path: path.write_bytes(b"no database at all, but long enough to be looked at" * 40),
    lambda path: path.write_bytes(b""),
    cut,
    of_another_kind,
]
