"""The report's page, and tables for papers."""

from __future__ import annotations

import json
from pathlib import Path

from pqbench_orchestrator.output.report.card import Card, Tile
from pqbench_orchestrator.output.report.page import Report, write_report

from ..cells import cell


def test_names_cannot_break_the_page(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    row = {"Model": evil}
    record = {"targets": {evil: {"device": evil, "versions": {}, "options": "{}"}}, "compressors": {evil: {}}, "started": "now",
              "host": {"os": "o", "python": "3", "cores": 2, "memory_bytes": 2**30}}  # fmt: skip
    card = Card(group=evil, goal=evil, headline=evil, key=evil, tiles=(Tile(name=evil, value=evil),), lines=(evil,),
                runners_up=((evil, evil),), commands=(evil,))  # fmt: skip
    report = Report(run=evil, table=[cell(row)], record=record, manifest=evil, cards=[card],
                    details={"c": {"samples": {}, "tool": evil}}, sensitivity=[{"data": [{"name": evil}]}])  # fmt: skip
    write_report(tmp_path / "r.html", report)
    text = (tmp_path / "r.html").read_text()
    assert "alert(1)</script>" not in text
    data = json.loads(text.split('id="data" type="application/json">')[1].split("</script>")[0])
    assert data["rows"][0][data["columns"].index("Model")] == evil


def test_a_page_without_a_timed_cell_says_why(tmp_path: Path) -> None:
    host = {"os": "o", "python": "3", "cores": 2, "memory_bytes": 2**30}
    record = {"targets": {}, "compressors": {}, "started": "now", "host": host}
    missing = {"Outcome": "unavailable", "Reason": "no CUDA device; built for 8.9"}
    for built in (False, True):
        table = [cell({"Cell": key} | missing | ({"Engine (bytes)": 9} if built else {})) for key in "ab"]
        write_report(tmp_path / "r.html", Report(run="run-1", table=table, record=record, manifest=""))
        text = (tmp_path / "r.html").read_text()
        assert "<li>2 unavailable: no CUDA device; built for 8.9</li>" in text
        assert ("pqbench recommend run-1 --minimize size" in text) == built
