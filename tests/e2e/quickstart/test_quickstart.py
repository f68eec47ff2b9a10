"""The quickstart as a user gets it: 36 cells, tables, report, cache, --continue."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb

from pqbench_orchestrator.results.tables import THESIS_COLUMNS

from ..conftest import ROOT, Pqbench, rows_of

MANIFEST = ROOT / "data/manifests/quickstart.yaml"


def test_every_cell_is_ok_or_refused_with_its_reason(quickstart: Path) -> None:
    rows = rows_of(quickstart)
    assert Counter(row["Outcome"] for row in rows) == {"ok": 32, "refused": 4}
    for row in rows:
        if row["Outcome"] == "refused":
            assert row["Target"] == "pytorch-cpu" and row["Reason"] == "pytorch has no route for INT8"
            assert not row["Accuracy"] and not row["Inference Time (ms)"]


def test_the_figures_make_sense(quickstart: Path) -> None:
    rows = [row for row in rows_of(quickstart) if row["Outcome"] == "ok"]
    assert tuple(rows[0])[:11] == THESIS_COLUMNS
    for row in rows:
        loses = row["Recipe"] in ("l1-global", "removal 0.95")
        assert (float(row["Accuracy"]) < 90) == loses, (row["Recipe"], row["Accuracy"])
        assert 0 < float(row["Median Low (ms)"]) <= float(row["Inference Time (ms)"]) <= float(row["Median High (ms)"])
        assert float(row["P90 (ms)"]) <= float(row["P99 (ms)"]) <= float(row["Max (ms)"])
        assert (row["Speedup"] == "") == (row["Recipe"] == "baseline")
        assert row["Stable"] in ("True", "False") and (row["Stable"] == "True") == (row["Unstable Because"] == "")
    by_recipe = {row["Recipe"]: row for row in rows if row["Target"] == "onnxruntime-cpu"}
    baseline = by_recipe["baseline"]
    assert float(baseline["Agreement (%)"]) == 100 and baseline["SQNR (dB)"] == ""
    assert 65 < float(by_recipe["l1-global"]["Sparsity (%)"]) < 75
    assert float(by_recipe["removal 0.8"]["MACs"]) < 0.1 * float(baseline["MACs"])
    assert float(by_recipe["removal 0.8"]["Compressed Size"]) < 0.1 * float(baseline["Original Size"])
    assert float(by_recipe["int8"]["Compressed Size"]) < 0.35 * float(baseline["Original Size"])
    assert {row["Executed Precision"].split()[0] for row in rows if row["Recipe"] == "int8"} == {"INT8"}
    assert {row["Executed Precision"].split()[0] for row in rows if row["Recipe"] == "baseline"} == {"FP32"}


def test_everything_that_was_promised_is_in_the_folder(quickstart: Path) -> None:
    names = {path.name for path in quickstart.iterdir()}
    assert {"results.csv", "results.parquet", "samples.parquet", "report.html", "manifest.yaml", "environment.json",
            "ledger.sqlite"} <= names  # fmt: skip
    assert not [name for name in names if name.endswith(".partial")]
    assert len(duckdb.read_parquet(str(quickstart / "results.parquet"))) == 36
    samples = duckdb.read_parquet(str(quickstart / "samples.parquet"))
    calls = sum(int(row["Calls"]) for row in rows_of(quickstart) if row["Calls"])
    roles = Counter(role for (role,) in samples.project("role").fetchall())
    assert roles["variant"] == calls and roles["baseline"] > 0
    record = json.loads((quickstart / "environment.json").read_text())
    assert record["compressors"]["compressor"]["torch"] and record["targets"]["openvino-cpu"]["versions"]["openvino"]
    assert "cpu" in record["targets"]["onnxruntime-cpu"]["environment"]
    targets = {"onnxruntime-cpu", "openvino-cpu", "pytorch-cpu"}
    assert record["materials"].keys() == {"orchestrator", "compressor"} | targets
    for file in record["materials"].values():
        bill = (quickstart / file).read_bytes()
        assert Path(file).name.partition(".")[0] == hashlib.sha256(bill).hexdigest()
    bill = json.loads((quickstart / record["materials"]["openvino-cpu"]).read_text())
    assert bill["metadata"]["component"]["name"] == "pqbench-runtime"
    assert record["targets"]["openvino-cpu"]["versions"]["openvino"].startswith(
        next(one["version"] for one in bill["components"] if one["name"] == "openvino")
    )


def test_the_second_run_finds_everything_but_measurements_in_the_cache(quickstart: Path, pqbench: Pqbench) -> None:
    data = quickstart.parents[1]
    done = pqbench("plan", MANIFEST, "--data", data, "--json")
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    states = Counter((step["kind"] in ("measure", "profile"), step["state"]) for step in plan["steps"])
    assert set(states) == {(False, "cached"), (True, "to do")} and states[True, "to do"] == 64
    assert Counter(cell["outcome"] for cell in plan["cells"]) == {"planned": 32, "refused": 4}


def test_continuing_a_finished_run_does_nothing_again(quickstart: Path, pqbench: Pqbench) -> None:
    before = _ledger(quickstart)
    table = rows_of(quickstart)
    done = pqbench("run", quickstart, "--continue", "--data", quickstart.parents[1])
    assert done.code == 0, done.err
    assert _ledger(quickstart) == before
    assert rows_of(quickstart) == table
    assert "36 cells: 32 ok, 4 refused" in done.out
    answer = done.out.partition("report.html")[2]
    assert answer.count("minimize latency with at most 3 points of accuracy lost") == 2, "for both batch sizes"
    assert answer.count("Measured again after the choice") == answer.count(f"pqbench export {quickstart} ") == 2
    assert table[0]["Cell"][:8] in done.out, "every table names its cells"


def _ledger(run: Path) -> list[Any]:
    with sqlite3.connect(run / "ledger.sqlite") as db:
        rows = db.execute("SELECT id, key, outcome FROM steps").fetchall()
    db.close()
    return rows


def test_the_report_can_be_written_again(quickstart: Path, pqbench: Pqbench) -> None:
    report = quickstart / "report.html"
    before = report.read_text()
    report.unlink()
    done = pqbench("report", quickstart)
    assert done.code == 0 and done.out.strip() == str(report)
    assert report.read_text() == before
