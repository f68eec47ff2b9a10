"""The ledger: the record of every step and cell of a run, in an SQLite file or a PostgreSQL database.

Rows of steps and cells are added, never changed: the newest row of a key counts. Facts about the run (the table `run`)
are replaced. Every value carries a digest, so that damage is noticed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pqbench_orchestrator.store.database import Database, digest_of_text
from pqbench_orchestrator.store.postgres import Address, PostgresDatabase
from pqbench_wire.errors import InvalidInput

ADVICE = "free disk space, fix permissions or restore the file; the rest of the run is unchanged"
AWAY_ADVICE = "when the database can be used again, --continue goes on"
REDONE_ADVICE = "pqbench run --continue does it again, or restore it"
WITH_DIGESTS = 1  # version of a ledger whose values all carry a digest; older ones have 0
READ_AT_ONCE = 500  # steps whose rows are read together
FILE = "ledger.sqlite"  # in the run's folder
# Names of facts in the table `run`.
CELLS = "cells"  # the keys of the newest plan's cells, in its order
MANIFEST, STEPS, SAMPLES = "manifest", "steps", "samples.parquet"
STEPS_OF, CONFIRMED = "cell {}", "confirmed {}"  # filled with a cell's key; with the confirmed measure step's key
SCHEMA = """
CREATE TABLE IF NOT EXISTS run (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS steps (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, kind TEXT NOT NULL, label TEXT NOT NULL, place TEXT NOT NULL,
    outcome TEXT NOT NULL, reason TEXT NOT NULL, started DOUBLE PRECISION NOT NULL,
    seconds DOUBLE PRECISION NOT NULL, result TEXT
);
CREATE INDEX IF NOT EXISTS steps_key ON steps (key);
CREATE TABLE IF NOT EXISTS cells (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, outcome TEXT NOT NULL, reason TEXT NOT NULL,
    recorded DOUBLE PRECISION NOT NULL, row TEXT NOT NULL
);
"""
ADD_STEP = (
    "INSERT INTO steps (key, kind, label, place, outcome, reason, started, seconds, result)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
ADD_CELL = "INSERT INTO cells (key, outcome, reason, recorded, row) VALUES (?, ?, ?, ?, ?)"
PUT_FACT = "INSERT INTO run VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"

StepResult = dict[str, Any]  # a step's result as JSON


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """A row of a step."""

    key: str
    kind: str
    label: str
    place: str
    outcome: str  # started, ok, cached, refused, unavailable, failed
    reason: str
    seconds: float
    result: StepResult | None = None

    @property
    def done(self) -> bool:
        """Whether its result can be used."""
        return self.outcome in ("ok", "cached")


COLUMNS = "key, kind, label, place, outcome, reason, seconds"


class Ledger:
    """One run's ledger; with `read_only` nothing is written, and a missing one raises InvalidInput.

    Reading a damaged value raises InvalidInput.
    """

    def __init__(self, place: Path | Address, read_only: bool = False) -> None:
        self._db: Database | PostgresDatabase
        if isinstance(place, Address):
            self._db = PostgresDatabase(place, SCHEMA, AWAY_ADVICE, read_only)
        else:
            self._db = Database(place, SCHEMA, ADVICE, read_only)
            if not read_only and self.is_empty:
                self._db.version = WITH_DIGESTS
        self._has_digests = self._db.version >= WITH_DIGESTS

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file or the connection."""
        self._db.close()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever recorded."""
        count = "SELECT (SELECT count(*) FROM run) + (SELECT count(*) FROM steps) + (SELECT count(*) FROM cells)"
        return self._db.rows(count) == [(0,)]

    def begin(self, manifest: str, steps: int) -> None:
        """Record the manifest's name and the number of steps of the plan that is about to be executed."""
        self._note({MANIFEST: manifest, STEPS: str(steps)})

    @property
    def manifest_name(self) -> str:
        """The name of the run's manifest; empty where none was recorded."""
        return self._fact(MANIFEST) or ""

    @property
    def planned_steps(self) -> int:
        """The number of steps of the newest plan; 0 where none was recorded."""
        return int(self._db.read_json(self._fact(STEPS) or "0"))

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
        result: StepResult | None = None,
    ) -> None:
        """Add a row for a step, which took `seconds` until now; it is on disk when this returns."""
        text = None if result is None else self._sealed(f"{key} {outcome}", json.dumps(result, sort_keys=True))
        row = (key, kind, label, place, outcome, reason, time.time() - seconds, seconds, text)
        self._db.write(ADD_STEP, [row])

    def step(self, key: str) -> StepRecord | None:
        """The newest row of a step, or None."""
        return self.newest([key]).get(key)

    def newest(self, keys: Sequence[str]) -> dict[str, StepRecord]:
        """The newest rows of some steps by key; up to READ_AT_ONCE keys."""
        places = ", ".join("?" * len(keys))
        query = (
            f"SELECT {COLUMNS}, result FROM steps"  # noqa: S608
            f" WHERE id IN (SELECT max(id) FROM steps WHERE key IN ({places}) GROUP BY key)"
        )
        return {row[0]: self._step_record(*row) for row in self._db.rows(query, keys)} if keys else {}

    def records(self, keys: Sequence[str]) -> Iterator[StepRecord | None]:
        """The newest row of each step in turn, or None; many are read at once, when the first of them is reached."""
        for begin in range(0, len(keys), READ_AT_ONCE):
            some = keys[begin : begin + READ_AT_ONCE]
            found = self.newest(some)
            yield from (found.get(key) for key in some)

    def steps(self) -> list[StepRecord]:
        """The newest row of every step, without its result, in the order in which these rows were written."""
        rows = self._db.rows(
            f"SELECT {COLUMNS}, NULL FROM steps AS s"  # noqa: S608
            " WHERE id = (SELECT max(id) FROM steps WHERE key = s.key) ORDER BY id"
        )
        return [self._step_record(*row) for row in rows]

    def _step_record(self, *row: Any) -> StepRecord:
        *fields, value = row
        named = dict(zip(COLUMNS.split(", "), fields, strict=True))
        text = self._opened(f"{named['key']} {named['outcome']}", value)
        return StepRecord(**named, result=self._db.read_json(text) if text else None)

    def durations(self) -> list[tuple[str, float]]:
        """Kind and seconds of every step that was done, not found in a cache."""
        rows = self._db.rows("SELECT kind, seconds FROM steps WHERE outcome = 'ok'")
        return [(str(kind), float(seconds)) for kind, seconds in rows]

    @property
    def last_active(self) -> float:
        """When the newest row of a step was written, in seconds since the epoch; 0 where there is none."""
        rows = self._db.rows("SELECT started + seconds FROM steps ORDER BY id DESC LIMIT 1")
        return float(rows[0][0]) if rows else 0.0

    def record_plan(self, cells: Mapping[str, Mapping[str, str]]) -> None:
        """Record the newest plan's cells, in its order: for each cell's key, the keys of its steps by role."""
        self._note({STEPS_OF.format(cell): json.dumps(dict(steps)) for cell, steps in cells.items()})
        self._note({CELLS: json.dumps(list(cells))})

    def steps_of(self, cell: str) -> dict[str, str]:
        """The keys of a cell's steps by role; empty where a ledger of an old version lacks them."""
        text = self._fact(STEPS_OF.format(cell))
        if text is None and self._has_digests:
            raise InvalidInput(f"{self._db.place} is damaged: it lacks the steps of cell {cell}; {REDONE_ADVICE}")
        return dict(self._db.read_json(text)) if text else {}

    def results_of(self, cell: str, roles: Collection[str] = ()) -> dict[str, StepResult]:
        """The results of a cell's steps by role, of all or of some roles; steps without a result are left out."""
        keys = {role: key for role, key in self.steps_of(cell).items() if not roles or role in roles}
        records = self.newest(list(keys.values()))
        results = {role: records[key].result for role, key in keys.items() if key in records}
        return {role: result for role, result in results.items() if result is not None}

    def record_cells(self, rows: Iterable[tuple[str, str, str, dict[str, Any]]]) -> None:
        """Add a row (key, outcome, reason, columns) for each cell."""
        now = time.time()
        self._db.write(
            ADD_CELL,
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
            raise InvalidInput(f"{self._db.place} is damaged: a cell has no columns; {ADVICE}")
        planned = self._fact(CELLS)  # not in the ledgers of old runs
        return [newest[key] for key in (self._db.read_json(planned) if planned else newest) if key in newest]

    def confirm(self, cell: str, columns: dict[str, Any]) -> None:
        """Record the columns of a measurement that was made after this cell was chosen."""
        self._note({self._name_of_confirmation(cell): json.dumps(columns)})

    def confirmation(self, cell: str) -> dict[str, Any] | None:
        """The columns of the newest measurement that was made after this cell was chosen, or None."""
        text = self._fact(self._name_of_confirmation(cell))
        return dict(self._db.read_json(text)) if text else None

    def _name_of_confirmation(self, cell: str) -> str:
        """The name of a confirmation's fact: by the key of the measure step, so that it is valid for that step only."""
        return CONFIRMED.format(self.steps_of(cell).get("measure"))

    def add(self, other: Ledger) -> None:
        """Add the steps and cells of another run's ledger as they are; a step that is done here stays as it is.

        Raises InvalidInput for a ledger of an old version, whose values carry no digest.
        """
        if not other._has_digests:
            raise InvalidInput(f"{other._db.place} is of an old version, whose values have no digests")
        done = {step.key for step in self.steps() if step.done}
        steps = other._db.rows(
            "SELECT key, kind, label, place, outcome, reason, started, seconds, result FROM steps ORDER BY id"
        )
        self._db.write(ADD_STEP, [step for step in steps if step[0] not in done])
        self._db.write(ADD_CELL, other._db.rows("SELECT key, outcome, reason, recorded, row FROM cells ORDER BY id"))

    def record_samples(self, digest: str) -> None:
        """Record the digest of the run's samples; empty where there are none."""
        self._note({SAMPLES: digest})

    @property
    def samples_digest(self) -> str | None:
        """The digest of the run's samples; None where none was recorded, as in ledgers of old versions."""
        return self._fact(SAMPLES)

    def documents(self) -> Iterator[Any]:
        """Every value that can refer to blobs: the newest result of each step (or None), and the run's facts."""
        for record in self.records([step.key for step in self.steps()]):
            yield record.result if record is not None else None
        for name, value in self._db.rows("SELECT key, value FROM run"):
            if name not in (MANIFEST, SAMPLES):
                yield self._db.read_json(self._opened(name, value))

    def discard_damaged(self) -> list[str]:
        """Remove every damaged value, so that it is made again; returns what each was, as "step KEY OUTCOME"."""
        found = []
        for what, query, remove in (
            ("fact", "SELECT key, key, value FROM run", "DELETE FROM run WHERE key = ?"),
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

    def _note(self, facts: Mapping[str, str]) -> None:
        sealed = [(name, self._sealed(name, value)) for name, value in facts.items()]
        self._db.write(PUT_FACT, sealed)

    def _fact(self, name: str) -> str | None:
        rows = self._db.rows("SELECT value FROM run WHERE key = ?", (name,))
        return self._opened(name, rows[0][0]) if rows else None

    def _sealed(self, name: str, text: str) -> str:
        return f"{text}\n{digest_of_text(name + text)}" if self._has_digests else text

    def _opened(self, name: str, value: Any) -> Any:
        """The text that `_sealed` turned into `value`; None for None. Raises InvalidInput where the digest is wrong."""
        if value is None or not self._has_digests:
            return value
        text, _, digest = str(value).rpartition("\n")
        if digest != digest_of_text(name + text):
            raise InvalidInput(f"{self._db.place} is damaged: {name} is not what was recorded; {REDONE_ADVICE}")
        return text
