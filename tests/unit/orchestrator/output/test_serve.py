"""The pages over all runs."""

from __future__ import annotations

from pathlib import Path

from fastapi.testclient import TestClient

from pqbench_orchestrator.output.web.serve import application
from pqbench_orchestrator.store.ledger import FILE

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
