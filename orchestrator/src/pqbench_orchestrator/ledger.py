"""The ledger: the append-only record of every step and cell of a run; and the cache of steps of all runs.

Plain SQLite. A row is only ever added; the newest row of a key counts.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pqbench_wire.errors import InvalidInput

CELLS = "cells"  # of the description: keys of the newest plan's cells
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


class Ledger:
    """One run's ledger file."""

    def __init__(self, path: Path) -> None:
        self._db = _open(path, SCHEMA)

    def describe(self, values: dict[str, str]) -> None:
        """Note facts about the run: its id, its start, its manifest's digest."""
        with self._db:
            self._db.executemany("INSERT OR REPLACE INTO run VALUES (?, ?)", values.items())

    def description(self) -> dict[str, str]:
        """The facts noted so far."""
        return dict(self._db.execute("SELECT key, value FROM run"))

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
        text = None if result is None else json.dumps(result, sort_keys=True)
        row = (key, kind, label, place, outcome, reason, time.time() - seconds, seconds, text)
        with self._db:
            self._db.execute(
                "INSERT INTO steps (key, kind, label, place, outcome, reason, started, seconds, result)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )

    def step(self, key: str) -> StepRecord | None:
        """The newest row of a step, or None."""
        row = self._db.execute(
            "SELECT key, kind, outcome, reason, seconds, result FROM steps WHERE key = ? ORDER BY id DESC LIMIT 1",
            (key,),
        ).fetchone()
        if row is None:
            return None
        *fields, result = row
        names = ("key", "kind", "outcome", "reason", "seconds")
        return StepRecord(**dict(zip(names, fields, strict=True)), result=json.loads(result) if result else None)

    def steps(self) -> list[dict[str, Any]]:
        """The newest row of every step without its result, in the order in which these were written."""
        rows = self._db.execute(
            "SELECT key, kind, label, place, outcome, reason, seconds FROM steps AS s"
            " WHERE id = (SELECT max(id) FROM steps WHERE key = s.key) ORDER BY id"
        )
        names = ("key", "kind", "label", "place", "outcome", "reason", "seconds")
        return [dict(zip(names, row, strict=True)) for row in rows]

    def record_cells(self, rows: Iterable[tuple[str, str, str, dict[str, Any]]]) -> None:
        """Add a row (key, outcome, reason, columns) for each cell."""
        now = time.time()
        with self._db:
            self._db.executemany(
                "INSERT INTO cells (key, outcome, reason, recorded, row) VALUES (?, ?, ?, ?, ?)",
                [(key, outcome, reason, now, json.dumps(columns)) for key, outcome, reason, columns in rows],
            )

    def cells(self) -> list[dict[str, Any]]:
        """The newest columns of every cell of the newest plan, in its order."""
        rows = self._db.execute("SELECT key, row FROM cells WHERE id IN (SELECT max(id) FROM cells GROUP BY key)")
        newest = {key: json.loads(row) for key, row in rows}
        planned = self.description().get(CELLS)  # not in the ledgers of old runs
        return [newest[key] for key in (json.loads(planned) if planned else newest) if key in newest]

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def cell_of(run: Path, cell: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A finished cell's row, and the results of its steps by role. Raises InvalidInput."""
    if not (run / FILE).is_file():
        raise InvalidInput(f"{run}: not a run: it has no {FILE}")
    ledger = Ledger(run / FILE)
    try:
        rows = {row["Cell"]: row for row in ledger.cells()}
        if cell not in rows:
            raise InvalidInput(f"{run} has no cell {cell!r}; the last column of results.csv names them")
        if rows[cell]["Outcome"] != "ok":
            raise InvalidInput(f"cell {cell} is {rows[cell]['Outcome']}: {rows[cell]['Reason']}")
        steps = json.loads(ledger.description()[f"cell {cell}"])
        records = {role: ledger.step(key) for role, key in steps.items()}
    finally:
        ledger.close()
    return rows[cell], {role: record.result for role, record in records.items() if record is not None}


class StepCache:
    """Results of deterministic steps by key, shared by all runs. Measurements never enter it."""

    def __init__(self, path: Path) -> None:
        self._db = _open(path, CACHE_SCHEMA)

    def get(self, key: str) -> dict[str, Any] | None:
        """The result of a step, or None."""
        row = self._db.execute("SELECT result FROM results WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, key: str, kind: str, result: dict[str, Any], seconds: float) -> None:
        """Keep a result."""
        with self._db:
            self._db.execute(
                "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?)", (key, kind, json.dumps(result), seconds)
            )

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _open(path: Path, schema: str) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, timeout=30)
    db.execute("PRAGMA journal_mode = WAL")
    db.executescript(schema)
    return db
