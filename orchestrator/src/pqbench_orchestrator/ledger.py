"""The ledger: the record of every step and cell of a run; and the cache of steps of all runs.

Plain SQLite. A step's or cell's row is added, never changed: the newest row of a key counts. Facts of the run are
replaced. Every value carries a digest, so that one which was damaged is noticed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pqbench_wire.errors import InvalidInput

LOCKED_SECONDS = 30.0  # that another process may hold the file
LEDGER_ADVICE = "make room, give access or restore the file; nothing else of the run was touched"
REDONE_ADVICE = "pqbench run --continue does it again, or restore the file"
CACHE_ADVICE = "make room or give access and go on with --continue"
CELLS = "cells"  # of the description: keys of the newest plan's cells
WITH_DIGESTS = 1  # SQLite's user_version of a ledger whose values all carry a digest; older ones have 0
FILE = "ledger.sqlite"  # in the run's folder
SCHEMA = """
CREATE TABLE IF NOT EXISTS run (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS steps (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, kind TEXT NOT NULL, label TEXT NOT NULL, place TEXT NOT NULL,
    outcome TEXT NOT NULL, reason TEXT NOT NULL, started REAL NOT NULL, seconds REAL NOT NULL, result TEXT
);
CREATE INDEX IF NOT EXISTS steps_key ON steps (key);
CREATE TABLE IF NOT EXISTS cells (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, outcome TEXT NOT NULL, reason TEXT NOT NULL,
    recorded REAL NOT NULL, row TEXT NOT NULL
);
"""
CACHE_SCHEMA = """
CREATE TABLE IF NOT EXISTS results (
    key TEXT PRIMARY KEY, kind TEXT NOT NULL, result TEXT NOT NULL, seconds REAL NOT NULL
);
"""


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """The newest row of a step."""

    key: str
    kind: str
    outcome: str  # started, ok, cached, refused, unavailable, failed
    reason: str
    seconds: float
    result: dict[str, Any] | None

    @property
    def done(self) -> bool:
        """Whether its result can be used."""
        return self.outcome in ("ok", "cached")


class _Database:
    """An SQLite file whose troubles are one line: which file, what is wrong, what to do."""

    def __init__(self, path: Path, schema: str, advice: str, read_only: bool = False) -> None:
        self.path, self._advice = path, advice
        with self._told():
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

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self._told():
            return self._db.execute(statement, values).fetchall()

    def write(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Write rows in one transaction; they are on disk when this returns."""
        with self._told(), self._db:
            self._db.executemany(statement, rows)

    def read_json(self, text: str) -> Any:
        """A value that the file holds as JSON."""
        with self._told():
            return json.loads(text)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:  # full, locked, read-only, of another schema
            raise InvalidInput(f"{self.path}: {error}; {self._advice}") from error
        except (sqlite3.DatabaseError, ValueError) as error:
            raise InvalidInput(f"{self.path} is damaged: {error}; {self._advice}") from error


def _reading(path: Path) -> sqlite3.Connection:
    """A connection that writes nothing, no files of SQLite's own either where no writer has left any."""
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


class Ledger:
    """One run's ledger file; with `read_only` nothing is written, and a missing file is InvalidInput.

    A value that was damaged is InvalidInput when it is read.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self._db = _Database(path, SCHEMA, LEDGER_ADVICE, read_only)
        if not read_only and self.is_empty:
            self._db.rows(f"PRAGMA user_version = {WITH_DIGESTS}")
        ((version,),) = self._db.rows("PRAGMA user_version")
        self._has_digests = version >= WITH_DIGESTS

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever recorded."""
        count = "SELECT (SELECT count(*) FROM run) + (SELECT count(*) FROM steps) + (SELECT count(*) FROM cells)"
        return self._db.rows(count) == [(0,)]

    def describe(self, values: dict[str, str]) -> None:
        """Note facts about the run: the number of its steps, the name of its manifest, the steps of each cell."""
        sealed = [(key, self._sealed(key, value)) for key, value in values.items()]
        self._db.write("INSERT OR REPLACE INTO run VALUES (?, ?)", sealed)

    def description(self) -> dict[str, str]:
        """The facts noted so far."""
        return {key: self._opened(key, value) for key, value in self._db.rows("SELECT key, value FROM run")}

    def fact(self, name: str) -> str | None:
        """One of the facts, or None."""
        rows = self._db.rows("SELECT value FROM run WHERE key = ?", (name,))
        return self._opened(name, rows[0][0]) if rows else None

    def steps_of(self, cell: str) -> dict[str, str]:
        """The keys of a cell's steps by role; ledgers of old versions may lack them."""
        text = self.fact(f"cell {cell}")
        if text is None and self._has_digests:
            raise InvalidInput(f"{self._db.path} is damaged: it lacks the steps of cell {cell}; {REDONE_ADVICE}")
        return dict(self._db.read_json(text)) if text else {}

    def confirmation(self, cell: str) -> dict[str, Any] | None:
        """The columns of the newest measurement after a choice of this cell, or None."""
        text = self.fact(self._name_of_confirmation(cell))
        return dict(self._db.read_json(text)) if text else None

    def confirm(self, cell: str, columns: dict[str, Any]) -> None:
        """Note the columns of a measurement made after a choice of this cell."""
        self.describe({self._name_of_confirmation(cell): json.dumps(columns)})

    def _name_of_confirmation(self, cell: str) -> str:
        """By the measurement that it confirms, so that another version's is not taken for it."""
        return f"confirmed {self.steps_of(cell).get('measure')}"

    def discard_damaged(self) -> list[str]:
        """Remove every value that was damaged, so that it is made again; returns what each was."""
        found = []
        for what, query, remove in (
            ("fact", "SELECT rowid, key, value FROM run", "DELETE FROM run WHERE rowid = ?"),
            ("step", "SELECT id, key || ' ' || outcome, result FROM steps", "DELETE FROM steps WHERE id = ?"),
            ("cell", "SELECT id, key, row FROM cells", "DELETE FROM cells WHERE id = ?"),
        ):
            for row, name, text in self._db.rows(query):
                try:
                    self._opened(name, text)
                except InvalidInput:
                    found.append(f"{what} {name}")
                    self._db.write(remove, [(row,)])
        return found

    def _sealed(self, name: str, text: str) -> str:
        return f"{text}\n{_digest(name + text)}" if self._has_digests else text

    def _opened(self, name: str, value: Any) -> Any:
        """What was sealed under a name; None where nothing was."""
        if value is None or not self._has_digests:
            return value
        text, _, digest = str(value).rpartition("\n")
        if digest != _digest(name + text):
            raise InvalidInput(f"{self._db.path} is damaged: {name} is not what was recorded; {REDONE_ADVICE}")
        return text

    def record(
        self,
        *,
        key: str,
        kind: str,
        label: str,
        place: str,
        outcome: str,
        reason: str = "",
        seconds: float = 0.0,
        result: dict[str, Any] | None = None,
    ) -> None:
        """Add a row for a step; it is on disk when this returns."""
        text = None if result is None else self._sealed(f"{key} {outcome}", json.dumps(result, sort_keys=True))
        row = (key, kind, label, place, outcome, reason, time.time() - seconds, seconds, text)
        self._db.write(
            "INSERT INTO steps (key, kind, label, place, outcome, reason, started, seconds, result)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [row],
        )

    def step(self, key: str) -> StepRecord | None:
        """The newest row of a step, or None."""
        newest = self._db.rows(
            "SELECT key, kind, outcome, reason, seconds, result FROM steps WHERE key = ? ORDER BY id DESC LIMIT 1",
            (key,),
        )
        if not newest:
            return None
        *fields, value = newest[0]
        names = ("key", "kind", "outcome", "reason", "seconds")
        text = self._opened(f"{key} {fields[names.index('outcome')]}", value)
        result = self._db.read_json(text) if text else None
        return StepRecord(**dict(zip(names, fields, strict=True)), result=result)

    def steps(self) -> list[dict[str, Any]]:
        """The newest row of every step without its result, in the order in which these were written."""
        rows = self._db.rows(
            "SELECT key, kind, label, place, outcome, reason, seconds FROM steps AS s"
            " WHERE id = (SELECT max(id) FROM steps WHERE key = s.key) ORDER BY id"
        )
        names = ("key", "kind", "label", "place", "outcome", "reason", "seconds")
        return [dict(zip(names, row, strict=True)) for row in rows]

    def record_cells(self, rows: Iterable[tuple[str, str, str, dict[str, Any]]]) -> None:
        """Add a row (key, outcome, reason, columns) for each cell."""
        now = time.time()
        self._db.write(
            "INSERT INTO cells (key, outcome, reason, recorded, row) VALUES (?, ?, ?, ?, ?)",
            [
                (key, outcome, reason, now, self._sealed(key, json.dumps(columns)))
                for key, outcome, reason, columns in rows
            ],
        )

    def cells(self) -> list[dict[str, Any]]:
        """The newest columns of every cell of the newest plan, in its order."""
        rows = self._db.rows("SELECT key, row FROM cells WHERE id IN (SELECT max(id) FROM cells GROUP BY key)")
        newest = {key: self._db.read_json(self._opened(key, row)) for key, row in rows}
        if not all(isinstance(row, dict) for row in newest.values()):
            raise InvalidInput(f"{self._db.path} is damaged: a cell has no columns; {LEDGER_ADVICE}")
        planned = self.fact(CELLS)  # not in the ledgers of old runs
        return [newest[key] for key in (self._db.read_json(planned) if planned else newest) if key in newest]

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def cell_of(run: Path, cell: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A finished cell's row, and the results of its steps by role. Raises InvalidInput."""
    with Ledger(run / FILE, read_only=True) as ledger:
        rows = {row["Cell"]: row for row in ledger.cells()}
        if cell not in rows:
            raise InvalidInput(f"{run} has no cell {cell!r}; the last column of results.csv names them")
        if rows[cell]["Outcome"] != "ok":
            raise InvalidInput(f"cell {cell} is {rows[cell]['Outcome']}: {rows[cell]['Reason']}")
        records = {role: ledger.step(key) for role, key in ledger.steps_of(cell).items()}
    return rows[cell], {role: record.result for role, record in records.items() if record is not None}


class StepCache:
    """Results of deterministic steps by key, shared by all runs. Measurements never enter it.

    A damaged file is set aside, which `note` is told: all that it holds can be made again.
    """

    def __init__(self, path: Path, note: Callable[[str], None] = lambda _: None) -> None:
        try:
            self._db = _Database(path, CACHE_SCHEMA, CACHE_ADVICE)
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
            self._db = _Database(path, CACHE_SCHEMA, CACHE_ADVICE)

    def get(self, key: str) -> dict[str, Any] | None:
        """The result of a step, or None."""
        rows = self._db.rows("SELECT result FROM results WHERE key = ?", (key,))
        text, _, digest = (rows[0][0] if rows else "").rpartition("\n")
        # One that is damaged, or of a version that wrote no digest, is made again and written anew.
        return json.loads(text) if text and digest == _digest(text) else None

    def put(self, key: str, kind: str, result: dict[str, Any], seconds: float) -> None:
        """Keep a result."""
        text = json.dumps(result)
        row = (key, kind, f"{text}\n{_digest(text)}", seconds)
        self._db.write("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?)", [row])

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _is_about_access(error: BaseException | None) -> bool:
    """Whether a file cannot be reached or written, which says nothing of what is in it."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL,
                    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR)  # fmt: skip
