"""Files of a run that are damaged, read-only or locked: one line that says which; what can be made again is."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from pqbench_orchestrator import environment
from pqbench_orchestrator.clean import clean
from pqbench_orchestrator.ledger import FILE, SCHEMA, Ledger, StepCache
from pqbench_orchestrator.samples import FILE as SAMPLES
from pqbench_orchestrator.samples import calls_of, digest_of
from pqbench_orchestrator.serve import application
from pqbench_orchestrator.tables import write_csv
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import InvalidInput

ROW = {"Cell": "c", "Model": "m", "Dataset": "d", "Recipe": "r", "Target": "t", "Outcome": "ok", "Reason": ""}


def a_run(folder: Path, result: dict[str, object] | None = None) -> Path:
    """A folder with a small ledger."""
    folder.mkdir(parents=True)
    with Ledger(folder / FILE) as ledger:
        ledger.describe({"manifest": "m", "cell c": json.dumps({"build": "k"})})
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
        ledger.describe({"steps": "3"})
        assert ledger.cells() == [ROW] and ledger.fact("steps") == "3"


def test_reading_writes_nothing_even_where_nothing_can_be_written(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    run.chmod(0o555)
    try:
        with Ledger(run / FILE, read_only=True) as ledger:
            assert ledger.cells() == [ROW]
            with pytest.raises(InvalidInput, match="readonly|read-only"):
                ledger.describe({"x": "y"})
    finally:
        run.chmod(0o755)
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before


@pytest.mark.parametrize("damage", [DAMAGES[0], cut, of_another_kind])
def test_a_damaged_cache_is_set_aside_and_begun_anew(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    path = tmp_path / "steps.sqlite"
    cache = StepCache(path)
    for number in range(200):
        cache.put(f"key {number}", "build", {"text": "x" * 100}, 1.0)
    cache.close()
    damage(path)
    notes: list[str] = []
    again = StepCache(path, notes.append)
    again.put("new", "build", {"a": 1}, 1.0)
    assert again.get("new") == {"a": 1}
    again.close()
    if notes:
        assert "set aside" in notes[0] and list(tmp_path.glob("steps.sqlite.damaged-*"))
    else:
        assert damage is of_another_kind, "a table of ours is made beside the others'"


def test_a_cache_that_cannot_be_reached_is_not_set_aside(tmp_path: Path) -> None:
    (tmp_path / "steps.sqlite").mkdir()
    with pytest.raises(InvalidInput, match="unable to open"):
        StepCache(tmp_path / "steps.sqlite")
    assert (tmp_path / "steps.sqlite").is_dir()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"started": 1}',
        "\xff",
        '{"started": "x", "targets": []}',
        '{"started": "x", "targets": {"a": 1}}',
        '{"started": "x", "targets": {"a": {"versions": 1}}}',
    ],
)
def test_a_damaged_environment_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / environment.FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidInput, match=f"{environment.FILE} is missing or damaged: .*remove it"):
        environment.read(tmp_path)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"others' calls")])
def test_samples_that_are_not_the_recorded_ones_are_named(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    (tmp_path / SAMPLES).write_bytes(b"calls")
    with Ledger(tmp_path / FILE) as ledger:
        ledger.describe({SAMPLES: digest_of(tmp_path)})
    damage(tmp_path / SAMPLES)
    with pytest.raises(InvalidInput, match=f"{SAMPLES} is missing or damaged; .*--continue"), calls_of(tmp_path):
        pass


def test_damaged_samples_are_named(tmp_path: Path) -> None:
    Ledger(tmp_path / FILE).close()
    (tmp_path / SAMPLES).write_bytes(b"PAR1 and no more PAR1")
    with pytest.raises(InvalidInput, match=f"{SAMPLES} is damaged"), calls_of(tmp_path) as connection:
        connection.execute("SELECT count(*) FROM calls").fetchall()


def test_one_damaged_run_hides_no_other(tmp_path: Path) -> None:
    a_run(tmp_path / "good")
    (a_run(tmp_path / "bad") / FILE).write_bytes(b"damaged" * 1000)
    client = TestClient(application(tmp_path), raise_server_exceptions=False)
    page = client.get("/")
    assert page.status_code == 200 and "good" in page.text and "is damaged" in page.text
    told = {one["run"]: one for one in client.get("/api/runs").json()}
    assert told["good"]["outcomes"] == {"ok": 1} and "is damaged" in told["bad"]["problem"]
    assert client.get("/runs/good").status_code == 200
    answer = client.get("/runs/bad")
    assert answer.status_code == 500 and "is damaged" in answer.text


def test_a_spreadsheet_finds_no_formula(tmp_path: Path) -> None:
    row = {"Model": "=HYPERLINK(1)", "Recipe": "-", "Target": "@x", "Accuracy": -1.5, "Reason": "+1", "Pruner": "a=b"}
    write_csv([row], tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        read = next(csv.DictReader(file))
    assert read["Model"] == "'=HYPERLINK(1)" and read["Target"] == "'@x" and read["Reason"] == "'+1"
    assert read["Recipe"] == "-" and read["Accuracy"] == "-1.5" and read["Pruner"] == "a=b"


def test_what_no_run_needs_is_removed(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs")
    needed, left = store.put(b"needed"), store.put(b"left over")
    a_run(tmp_path / "experiments/run", {"blob": {"sha256": needed.sha256, "size": "6"}})
    (tmp_path / "results/build").mkdir(parents=True)
    (tmp_path / "results/build/k").write_bytes(b"kept")
    found = clean(tmp_path, remove=False)
    assert (found.files, found.kept) == (2, 6) and store.has(left)
    clean(tmp_path, remove=True)
    assert store.has(needed) and not store.has(left) and not (tmp_path / "results/build/k").exists()
    with pytest.raises(InvalidInput, match="not a data folder"):
        clean(tmp_path / "experiments", remove=True)


@pytest.mark.parametrize("damage", ["{}", '{"a": 2}', "[1]", "{cut", ""])
def test_a_damaged_result_in_the_cache_is_none(tmp_path: Path, damage: str) -> None:
    cache = StepCache(tmp_path / "steps.sqlite")
    cache.put("k", "build", {"a": 1}, 1.0)
    cache.close()
    with sqlite3.connect(tmp_path / "steps.sqlite") as db:
        db.execute("UPDATE results SET result = ? || substr(result, instr(result, char(10)))", (damage,))
    db.close()
    again = StepCache(tmp_path / "steps.sqlite")
    assert again.get("k") is None
    again.put("k", "build", {"a": 1}, 1.0)
    assert again.get("k") == {"a": 1}
    again.close()
