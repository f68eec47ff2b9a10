"""The report's page, and tables for papers."""

from __future__ import annotations

import json
from pathlib import Path

from pqbench_orchestrator.output.report.page import Report, write_report

from ..cells import cell


def test_names_cannot_break_the_page(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    row = {"Model": evil}
    record = {"targets": {evil: {"device": evil, "versions": {}, "options": "{}"}}, "compressors": {evil: {}}, "started": "now",
              "host": {"os": "o", "python": "3", "cores": 2, "memory_bytes": 2**30}}  # fmt: skip
    report = Report(run=evil, table=[cell(row)], record=record, manifest=evil, recommendations=[[evil, evil]],
                    details={"c": {"samples": {}, "tool": evil}}, sensitivity=[{"data": [{"name": evil}]}])  # fmt: skip
    write_report(tmp_path / "r.html", report)
    text = (tmp_path / "r.html").read_text()
    assert "alert(1)</script>" not in text
    data = json.loads(text.split('id="data" type="application/json">')[1].split("</script>")[0])
    assert data["rows"][0][data["columns"].index("Model")] == evil
