"""The cache of steps of all runs: results of deterministic steps by key."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pqbench_orchestrator.store.database import Database, digest_of_text
from pqbench_wire.errors import InvalidInput

ADVICE = "make room or give access and go on with --continue"
SCHEMA = """
CREATE TABLE IF NOT EXISTS results (
    key TEXT PRIMARY KEY, kind TEXT NOT NULL, result TEXT NOT NULL, seconds REAL NOT NULL
);
"""


class StepCache:
    """Results of deterministic steps by key, shared by all runs. Measurements never enter it.

    A damaged file is set aside, which `note` is told: all that it holds can be made again.
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
            note(f"note: {path} is damaged: it was set aside as {aside.name}, and earlier results are made again")
            self._db = Database(path, SCHEMA, ADVICE)

    def get(self, key: str) -> dict[str, Any] | None:
        """The result of a step, or None."""
        rows = self._db.rows("SELECT result FROM results WHERE key = ?", (key,))
        text, _, digest = (rows[0][0] if rows else "").rpartition("\n")
        # One that is damaged, or of a version that wrote no digest, is made again and written anew.
        return json.loads(text) if text and digest == digest_of_text(text) else None

    def put(self, key: str, kind: str, result: dict[str, Any], seconds: float) -> None:
        """Keep a result."""
        text = json.dumps(result)
        row = (key, kind, f"{text}\n{digest_of_text(text)}", seconds)
        self._db.write("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?)", [row])

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _is_about_access(error: BaseException | None) -> bool:
    """Whether a file cannot be reached or written, which says nothing of what is in it."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL,
                    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR)  # fmt: skip
