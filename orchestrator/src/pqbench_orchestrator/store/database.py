"""SQLite files whose errors become an InvalidInput of one line: which file, what is wrong, what to do."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pqbench_wire.errors import InvalidInput

LOCKED_SECONDS = 30.0  # for which to wait for another process that holds the file


class Database:
    """An SQLite file; an error raises InvalidInput of one line: which file, what is wrong, and the `advice`.

    Without `read_only` a missing file is made, with the `schema`; with it, a missing file is InvalidInput.
    """

    def __init__(self, path: Path, schema: str, advice: str, read_only: bool = False) -> None:
        self.place, self._advice = path, advice
        with self._translated():
            if read_only:
                self._db = _reading(path)
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=LOCKED_SECONDS)
            with contextlib.ExitStack() as stack:
                stack.callback(self._db.close)
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.executescript(schema)
                stack.pop_all()

    @property
    def version(self) -> int:
        """SQLite's user_version: 0 unless it was set."""
        ((version,),) = self.rows("PRAGMA user_version")
        return int(version)

    @version.setter
    def version(self, version: int) -> None:
        self.rows(f"PRAGMA user_version = {version}")

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self._translated():
            return self._db.execute(statement, values).fetchall()

    def write(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Write rows in one transaction; they are on disk when this returns."""
        with self._translated(), self._db:
            self._db.executemany(statement, rows)

    def read_json(self, text: str) -> Any:
        """Parse a JSON text that came from the file; text that is not JSON means that the file is damaged."""
        with self._translated():
            return json.loads(text)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:  # disk full, file locked or read-only, or another schema
            raise InvalidInput(f"{self.place}: {error}; {self._advice}") from error
        except (sqlite3.DatabaseError, ValueError) as error:
            raise InvalidInput(f"{self.place} is damaged: {error}; {self._advice}") from error


def _reading(path: Path) -> sqlite3.Connection:
    """A read-only connection to a ledger; where no writer has left a WAL file, SQLite creates no files beside it."""
    if not path.is_file():
        raise InvalidInput(f"{path.parent}: not a run: it has no {path.name}")
    address = f"{path.resolve().as_uri()}?mode=ro"
    is_written = path.with_name(f"{path.name}-wal").exists()
    db = sqlite3.connect(address if is_written else f"{address}&immutable=1", uri=True, timeout=LOCKED_SECONDS)
    with contextlib.ExitStack() as stack:
        stack.callback(db.close)
        db.execute("SELECT count(*) FROM run")
        stack.pop_all()
    return db


def digest_of_text(text: str) -> str:
    """The SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
