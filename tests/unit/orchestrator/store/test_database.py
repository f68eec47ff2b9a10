"""SQLite files: whole transactions, and troubles in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pqbench_orchestrator.store.database import Database, digest_of_text
from pqbench_wire.errors import InvalidInput

SCHEMA = "CREATE TABLE IF NOT EXISTS t (a TEXT); CREATE TABLE IF NOT EXISTS run (key TEXT);"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    db = Database(tmp_path / "new/db.sqlite", SCHEMA, "do this")
    db.write("INSERT INTO t VALUES (?)", [("x",), ("y",)])
    db.close()
    reading = Database(tmp_path / "new/db.sqlite", SCHEMA, "do this", read_only=True)
    assert reading.rows("SELECT a FROM t ORDER BY a") == [("x",), ("y",)]
    with pytest.raises(InvalidInput, match="db.sqlite: .*readonly.*; do this"):
        reading.write("INSERT INTO t VALUES (?)", [("z",)])
    reading.close()


def test_a_wrong_table_and_wrong_json_are_named_with_what_to_do(tmp_path: Path) -> None:
    db = Database(tmp_path / "db.sqlite", SCHEMA, "do this")
    with pytest.raises(InvalidInput, match="db.sqlite: no such table: other; do this"):
        db.rows("SELECT * FROM other")
    with pytest.raises(InvalidInput, match="db.sqlite is damaged: .*; do this"):
        db.read_json("{cut")
    db.close()


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="unable to open"):
        Database(tmp_path, SCHEMA, "do this")


def test_a_digest_is_of_the_whole_text() -> None:
    assert digest_of_text("ä") != digest_of_text("a") and len(digest_of_text("")) == 64
