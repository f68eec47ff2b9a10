"""The pages over all runs."""

from __future__ import annotations

import os
from pathlib import Path

from fastapi.testclient import TestClient

from pqbench_orchestrator.output.web.serve import application
from pqbench_orchestrator.store.ledger import FILE, Ledger
from pqbench_orchestrator.store.run_folder import MANIFEST

from ..cells import LEAST
from ..damage import a_run


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


def test_the_history_of_a_manifest_has_each_run_the_oldest_first(tmp_path: Path) -> None:
    for number, name in enumerate(("first", "second")):
        run = a_run(tmp_path / name)
        (run / MANIFEST).touch()
        os.utime(run / MANIFEST, (1000.0 + number, 1000.0 + number))
        with Ledger(run / FILE) as ledger:
            figures = {"Inference Time (ms)": 2.0 - number, "Speedup": 1.0 + number, "Accuracy": 90.0}
            ledger.record_cells([("c", "ok", "", LEAST | figures)])
    (a_run(tmp_path / "bad") / FILE).write_bytes(b"damaged" * 1000)
    client = TestClient(application(tmp_path))
    found = client.get("/api/history/m").json()
    assert found["runs"] == ["first", "second"]
    points = found["groups"]["m, d, batch 1"]["r on t"]
    assert [(point["run"], point["latency"][0], point["speedup"][0]) for point in points] == [
        ("first", 2, 1),
        ("second", 1, 2),
    ]
    page = client.get("/history/m")
    assert page.status_code == 200 and "History of m" in page.text
    assert client.get("/history/none").status_code == 404
    assert '<a href="/history/m"' in client.get("/").text


def test_the_history_begins_a_series_where_a_recipe_of_one_name_was_changed(tmp_path: Path) -> None:
    for number, (name, method) in enumerate({"first": "fp16", "second": "int8", "third": "fp16"}.items()):
        run = a_run(tmp_path / name)
        (run / MANIFEST).write_text(
            f"{{name: m, models: [{{model: digits/m}}], datasets: [{{dataset: d}}], recipes: [{{name: r, steps: [{{quantize: {method}}}]}}],"
            " targets: [{name: t, backend: b}]}"
        )
        os.utime(run / MANIFEST, (1000.0 + number, 1000.0 + number))
        with Ledger(run / FILE) as ledger:
            ledger.record_cells([("c", "ok", "", LEAST | {"Inference Time (ms)": 1.0})])
    found = TestClient(application(tmp_path)).get("/api/history/m").json()["groups"]["m, d, batch 1"]
    runs = {name: [point["run"] for point in points] for name, points in found.items()}
    assert runs == {"r on t": ["first", "third"], "r on t, as changed in second": ["second"]}


def test_prometheus_is_told_of_every_run(tmp_path: Path) -> None:
    a_run(tmp_path / "good")
    (a_run(tmp_path / "bad") / FILE).write_bytes(b"damaged" * 1000)
    answer = TestClient(application(tmp_path)).get("/metrics")
    lines = answer.text.splitlines()
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'pqbench_run_cells{manifest="m",outcome="ok",run="good"} 1.0' in lines
    assert 'pqbench_run_steps_ended{manifest="m",run="good"} 1.0' in lines
    assert 'pqbench_run_running{manifest="",run="bad"} 0.0' in lines
