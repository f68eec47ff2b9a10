"""The step cache of a data folder: results of deterministic steps by key, for all runs."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pqbench_orchestrator.store.database import Database, digest_of_text
from pqbench_wire.errors import InvalidInput

FILE = "steps.sqlite"  # in the data folder
ADVICE = "free disk space or fix permissions, then continue with --continue"
SCHEMA = """
CREATE TABLE IF NOT EXISTS results (
    key TEXT PRIMARY KEY, kind TEXT NOT NULL, result TEXT NOT NULL, seconds REAL NOT NULL
);
"""


class Entry(NamedTuple):
    """A step's result as it is kept: `seconds` are those that the step took."""

    kind: str
    result: dict[str, Any]
    seconds: float


class StepCache:
    """Results of deterministic steps by key, shared by all runs. Measurements never enter it.

    A damaged file is renamed and replaced by an empty one, because all results can be made again; `note` is called with
    a line that says so. Raises InvalidInput where the file cannot be opened or written.
    """

    def __init__(self, path: Path, note: Callable[[str], None] = lambda _: None) -> None:
        try:
            self._db = Database(path, SCHEMA, ADVICE)
            self._db.rows("SELECT key, kind, result, seconds FROM results LIMIT 1")
        except InvalidInput as error:
            if not isinstance(error.__cause__, (sqlite3.DatabaseError, ValueError)) or _is_about_access(
                error.__cause__
            ):
                raise
            aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
            path.replace(aside)
            for rest in ("-wal", "-shm"):
                path.with_name(path.name + rest).unlink(missing_ok=True)
            note(f"note: {path} is damaged: it was set aside as {aside.name}, and its results will be computed again")
            self._db = Database(path, SCHEMA, ADVICE)

    def get(self, key: str) -> dict[str, Any] | None:
        """The result of a step, or None."""
        entry = self.entry(key)
        return entry.result if entry is not None else None

    def entry(self, key: str) -> Entry | None:
        """What is kept of a step, or None."""
        rows = self._db.rows("SELECT kind, result, seconds FROM results WHERE key = ?", (key,))
        kind, sealed, seconds = rows[0] if rows else ("", "", 0.0)
        text, _, digest = sealed.rpartition("\n")
        # A result that is damaged, or was written by a version without digests, counts as missing and is made again.
        if not text or digest != digest_of_text(text):
            return None
        return Entry(kind, json.loads(text), seconds)

    def put(self, key: str, kind: str, result: dict[str, Any], seconds: float) -> None:
        """Keep a step's result, in place of an earlier one."""
        text = json.dumps(result)
        row = (key, kind, f"{text}\n{digest_of_text(text)}", seconds)
        self._db.write("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?)", [row])

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _is_about_access(error: BaseException | None) -> bool:
    """Whether an error means that the file cannot be reached or written, not that its content is damaged."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL,
                    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR)  # fmt: skip
