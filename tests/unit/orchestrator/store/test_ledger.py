"""The ledger: grows, keeps order, notices damage, and reads without writing."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from pqbench_orchestrator.store.ledger import FILE, SCHEMA, Ledger
from pqbench_wire.errors import InvalidInput

from ..damage import DAMAGES, ROW, a_run

STEP = {"key": "k", "kind": "build", "label": "l", "place": "p"}


def test_the_ledger_only_grows_and_the_newest_row_counts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    ledger.record(**STEP, outcome="started")
    ledger.record(**STEP, outcome="failed", reason="why")
    record = ledger.step("k")
    assert record is not None and not record.done and record.reason == "why"
    ledger.record(**STEP, outcome="ok", result={"a": 1}, seconds=2.0)
    ledger.close()
    again = Ledger(tmp_path / "l.sqlite")
    record = again.step("k")
    assert record is not None and record.done and record.result == {"a": 1}
    assert again._db.rows("SELECT count(*) FROM steps") == [(3,)]
    assert again.step("other") is None
    again.close()


def test_many_steps_are_read_at_once(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        for key in ("a", "b"):
            ledger.record(**STEP | {"key": key}, outcome="started")
        ledger.record(**STEP | {"key": "a"}, outcome="ok", result={"of": "a"})
        ledger.record(**STEP | {"key": "c"}, outcome="ok", result={"of": "c"})
        found = ledger.newest(["a", "b", "none"])
        assert {key: (one.outcome, one.result) for key, one in found.items()} == {
            "a": ("ok", {"of": "a"}), "b": ("started", None),
        }  # fmt: skip
        assert ledger.newest([]) == {}
        assert [document for document in ledger.documents() if document] == [{"of": "a"}, {"of": "c"}]


def test_cells_keep_their_order_and_show_their_newest_row(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    ledger.record_cells([("a", "failed", "x", {"n": 1}), ("b", "ok", "", {"n": 2})])
    ledger.record_cells([("a", "ok", "", {"n": 3})])
    assert sorted(one["n"] for one in ledger.cells()) == [2, 3], "a ledger of an older version names no plan"
    ledger.record_plan({"a": {}, "new": {}, "b": {}})
    assert ledger.cells() == [{"n": 3}, {"n": 2}]
    ledger.record_plan({"b": {}})
    assert ledger.cells() == [{"n": 2}], "what the newest plan has not is not shown"
    ledger.close()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_ledger_is_named(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    ledger = a_run(tmp_path / "run") / FILE
    damage(ledger)
    with (
        pytest.raises(InvalidInput, match=f"{ledger}.*(restore the file|not a run)"),
        Ledger(ledger, read_only=True) as one,
    ):
        one.cells()
        one.steps()


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    ledger = a_run(tmp_path / "run") / FILE
    with sqlite3.connect(ledger) as db:
        db.execute("UPDATE steps SET result = '{cut'")
    db.close()
    with Ledger(ledger, read_only=True) as one, pytest.raises(InvalidInput, match=f"{ledger} is damaged"):
        one.step("k")


@pytest.mark.parametrize(
    ("statement", "read"),
    [
        ("UPDATE steps SET result = '{}'", lambda ledger: ledger.step("k")),
        ("UPDATE steps SET result = replace(result, '7', '8')", lambda ledger: ledger.step("k")),
        ("UPDATE steps SET outcome = 'cached'", lambda ledger: ledger.step("k")),
        ("UPDATE cells SET row = '{}'", lambda ledger: ledger.cells()),
        ("UPDATE cells SET row = replace(row, 'ok', 'no')", lambda ledger: ledger.cells()),
        ("UPDATE run SET value = '[]' WHERE key LIKE 'cell %'", lambda ledger: ledger.steps_of("c")),
        ("DELETE FROM run WHERE key LIKE 'cell %'", lambda ledger: ledger.steps_of("c")),
        ("UPDATE run SET value = '3' WHERE key LIKE 'confirmed %'", lambda ledger: ledger.confirmation("c")),
    ],
)
def test_a_changed_value_is_noticed_and_made_again(
    statement: str, read: Callable[[Ledger], object], tmp_path: Path
) -> None:
    """Also where it is still valid JSON: a wrong number would be believed."""
    path = a_run(tmp_path / "run", {"size": 7}) / FILE
    with Ledger(path) as ledger:
        ledger.confirm("c", {"Stable": True})
        read(ledger)
        assert ledger.discard_damaged() == []
    with sqlite3.connect(path) as db:
        db.execute(statement)
    db.close()
    with Ledger(path, read_only=True) as ledger, pytest.raises(InvalidInput, match=f"{path} is damaged: .*--continue"):
        read(ledger)
    with Ledger(path) as ledger:
        assert len(ledger.discard_damaged()) == (0 if statement.startswith("DELETE") else 1)
        assert ledger.discard_damaged() == []


def test_the_ledgers_of_older_versions_have_no_digests(tmp_path: Path) -> None:
    path = tmp_path / FILE
    with sqlite3.connect(path) as db:
        db.executescript(SCHEMA)
        db.execute("INSERT INTO run VALUES ('cells', '[\"c\"]')")
        db.execute("INSERT INTO cells VALUES (1, 'c', 'ok', '', 0.0, ?)", (json.dumps(ROW),))
    db.close()
    with Ledger(path, read_only=True) as ledger:
        assert ledger.cells() == [ROW] and ledger.steps_of("c") == {}
    with Ledger(path) as ledger:
        assert ledger.discard_damaged() == []
        ledger.begin("m", 3)
        assert ledger.cells() == [ROW] and ledger.planned_steps == 3


def test_reading_writes_nothing_even_where_nothing_can_be_written(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    run.chmod(0o555)
    try:
        with Ledger(run / FILE, read_only=True) as ledger:
            assert ledger.cells() == [ROW]
            with pytest.raises(InvalidInput, match="readonly|read-only"):
                ledger.begin("m", 1)
    finally:
        run.chmod(0o755)
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before
