"""A ledger in a real PostgreSQL database."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from fastapi.testclient import TestClient

from pqbench_orchestrator.output.web.serve import application
from pqbench_orchestrator.store import postgres
from pqbench_orchestrator.store.ledger import Ledger
from pqbench_orchestrator.store.postgres import Address
from pqbench_orchestrator.store.run_folder import LEDGER_URL, RunFolder, runs_below
from pqbench_wire.errors import InvalidInput
from tests.postgres import Server

STEP = {"kind": "build", "label": "a model", "place": "there"}
ROW = {"outcome": "ok", "Recipe": "r"}


def made(postgres_server: Server, name: str) -> Address:
    """The address of a new run."""
    postgres.create(Address(postgres_server.url, name))
    return Address(postgres_server.url, name)


def test_it_holds_what_a_file_holds(postgres_server: Server) -> None:
    address = made(postgres_server, "it holds")
    with Ledger(address) as ledger:
        assert ledger.is_empty
        ledger.begin("m", 3)
        ledger.record(key="a", outcome="started", **STEP)
        ledger.record(key="a", outcome="ok", seconds=2.0, result={"size": 5}, **STEP)
        ledger.record(key="b", outcome="started", **STEP)
        assert {key: one.outcome for key, one in ledger.newest(["a", "b", "c"]).items()} == {"a": "ok", "b": "started"}
        ledger.record_plan({"c": {"build": "a"}, "d": {"build": "b"}})
        ledger.record_cells([("c", "ok", "", ROW), ("d", "ok", "", ROW)])
        ledger.record_cells([("c", "ok", "", ROW | {"Recipe": "newest"})])
        ledger.record_samples("first")
        ledger.record_samples("second")
    with Ledger(address, read_only=True) as ledger:
        assert (ledger.manifest_name, ledger.planned_steps, ledger.samples_digest) == ("m", 3, "second")
        assert [(step.key, step.outcome) for step in ledger.steps()] == [("a", "ok"), ("b", "started")]
        assert ledger.results_of("c") == {"build": {"size": 5}} and ledger.durations() == [("build", 2.0)]
        assert [row["Recipe"] for row in ledger.cells()] == ["newest", "r"]
        assert abs(ledger.last_active - time.time()) < 60
    assert abs(postgres.beginnings(postgres_server.url, ["it holds"])["it holds"] - time.time()) < 60


def test_each_run_has_a_schema_of_its_own(postgres_server: Server) -> None:
    for name in ("one", "two"):
        with Ledger(made(postgres_server, name)) as ledger:
            ledger.begin(name, 1)
    assert {"one", "two"} <= set(postgres.runs_of(postgres_server.url))
    with Ledger(Address(postgres_server.url, "one"), read_only=True) as ledger:
        assert ledger.manifest_name == "one"
    with pytest.raises(InvalidInput, match='schema "one" already exists'):
        postgres.create(Address(postgres_server.url, "one"))
    for read_only in (True, False):
        with pytest.raises(InvalidInput, match="has no run three"):
            Ledger(Address(postgres_server.url, "three"), read_only=read_only)
    with pytest.raises(InvalidInput, match="may have 63 bytes in PostgreSQL: shorten `name`"):
        postgres.create(Address(postgres_server.url, "x" * 64))
    postgres.drop(Address(postgres_server.url, "one"))
    assert "one" not in postgres.runs_of(postgres_server.url)


def test_damage_is_found_and_removed(postgres_server: Server) -> None:
    address = made(postgres_server, "damaged")
    with Ledger(address) as ledger:
        ledger.record(key="a", outcome="ok", result={"size": 5}, **STEP)
        ledger.begin("m", 1)
    with psycopg.connect(postgres_server.url) as connection:
        connection.execute("UPDATE damaged.steps SET result = replace(result, '5', '6')")
        connection.execute("UPDATE damaged.run SET value = 'x' || value WHERE key = 'manifest'")
    with Ledger(address) as ledger:
        with pytest.raises(InvalidInput, match="run damaged is damaged: a ok is not what was recorded"):
            ledger.step("a")
        assert sorted(ledger.discard_damaged()) == ["fact manifest", "step a ok"]
        assert ledger.step("a") is None and ledger.planned_steps == 1


def test_a_database_that_restarts_is_waited_for(postgres_server: Server) -> None:
    with Ledger(made(postgres_server, "restarts")) as ledger:
        ledger.record(key="a", outcome="ok", **STEP)
        postgres_server.stop()
        with _later(postgres_server.start):
            ledger.record(key="b", outcome="ok", **STEP)
        assert {step.key for step in ledger.steps()} == {"a", "b"}


def test_a_database_that_stays_away_is_one_line(postgres_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "AWAY_SECONDS", 1.5)
    with Ledger(made(postgres_server, "away")) as ledger:
        postgres_server.stop()
        try:
            with pytest.raises(InvalidInput, match="run away: .*--continue goes on") as told:
                ledger.record(key="a", outcome="ok", **STEP)
            assert "\n" not in str(told.value)
            with pytest.raises(InvalidInput, match="cannot be reached"):
                postgres.check(postgres_server.url)
        finally:
            postgres_server.start()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://host/db", "no address of a database"),
        ("postgresql://host", "write postgresql://USER@HOST/DATABASE"),
        ("postgresql://me:secret@host/db", "give the password by PGPASSWORD or ~/.pgpass"),
        ("postgresql://me:secret@host", "give the password by PGPASSWORD or ~/.pgpass"),
        ("postgresql://me@host/db?password=secret", "give the password by PGPASSWORD or ~/.pgpass"),
        ("postgresql://[secret/db", "no address of a database"),
        ("host=here dbname=db", "write postgresql://USER@HOST/DATABASE"),
        ("postgresql://127.0.0.1:1/db", "cannot be reached"),
    ],
)
def test_wrong_urls(url: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as told:
        postgres.check(url)
    assert "secret" not in str(told.value) and "\n" not in str(told.value)


def test_the_page_shows_runs_of_other_machines(
    postgres_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "there"):
        with Ledger(made(postgres_server, name)) as ledger:
            ledger.begin("sweep", 4)
            ledger.record(key="a", outcome="ok", seconds=1.0, **STEP)
            ledger.record(key="b", outcome="started", **STEP)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / LEDGER_URL).write_text(f"{postgres_server.url}\nhere\n")
    (tmp_path / "here" / "manifest.yaml").touch()
    assert [run.name for run in runs_below(tmp_path)] == ["here"]
    client = TestClient(application(tmp_path, postgres_server.url))
    told = {run["run"]: run for run in client.get("/api/runs").json()}
    assert told["there"]["running"] and (told["there"]["steps_ended"], told["there"]["steps_planned"]) == (1, 4)
    assert (told["here"]["is_here"], told["there"]["is_here"]) == (True, False)
    page = client.get("/runs/there")
    assert page.status_code == 200 and "a model" in page.text
    assert client.get("/compare?old=here&new=there").status_code == 404
    monkeypatch.chdir(tmp_path / "here")
    with RunFolder(Path()).ledger() as ledger:
        assert ledger.manifest_name == "sweep"
    postgres_server.stop()
    try:
        away = client.get("/api/runs").json()
        assert "cannot be reached" in away[0]["problem"] and client.get("/").status_code == 200
        assert client.get("/runs/there").status_code == 500
    finally:
        postgres_server.start()
    assert "there" not in {run["run"] for run in TestClient(application(tmp_path)).get("/api/runs").json()}
    RunFolder(tmp_path / "here").remove()
    assert "here" not in postgres.runs_of(postgres_server.url)


@contextlib.contextmanager
def _later(action: object) -> Iterator[None]:
    """Do something a second later, while the body runs."""
    assert callable(action)
    timer = threading.Timer(1.0, action)
    timer.start()
    try:
        yield
    finally:
        timer.join()
