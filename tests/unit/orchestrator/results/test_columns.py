"""The columns of results: names, units and meanings, and the records that have them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema

from pqbench_orchestrator.commands.schema import markdown, schema
from pqbench_orchestrator.results.columns import COLUMNS, metric_name
from pqbench_orchestrator.results.tables import as_records

from ..cells import table

DOCS = Path(__file__).parents[4] / "docs"
UNITS_IN_TITLES = re.compile(r"\((%|ms|s|MB|bytes|dB|W|MHz|1/s|mJ/image|cores)\)")


def test_names_are_unique_and_say_their_unit() -> None:
    names = [column.name for column in COLUMNS]
    assert len(set(names)) == len(names) and all(re.fullmatch(r"[a-z0-9_]+", name) for name in names)
    assert all(column.meaning and column.kind in (str, int, float, bool) for column in COLUMNS)
    shown = {column.title: UNITS_IN_TITLES.search(column.title) for column in COLUMNS}
    assert [c.title for c in COLUMNS if (unit := shown[c.title]) and c.unit != unit[1]] == []
    assert not [name for name in names if name.endswith("_seconds")]


def test_every_record_has_the_same_keys_and_fits_the_schema() -> None:
    rows = [
        {"Recipe": "a", "Accuracy": 90.0, "SQNR (dB)": 30.0, "Scored Images": 8, "Inference Time (ms)": 1.0},
        {"Recipe": "b", "Outcome": "failed", "Reason": "why", "Amount": 0.5},
    ]
    records = as_records(table(rows), "a-run", "2026-11-26T12:00:00+0000")
    assert list(records[0]) == list(records[1]) and list(records[0])[:2] == ["run", "started"]
    assert records[0]["median_ms"] == 1.0 and records[1]["median_ms"] is None and records[1]["amount"] == 0.5
    assert records[0]["metric_sqnr_db"] == 30.0 and metric_name("Top-5 Accuracy (%)") == "metric_top_5_accuracy_percent"
    for record in records:
        jsonschema.validate(record, schema("results"))


def test_metrics_whose_titles_give_the_same_name_are_both_kept() -> None:
    (record,) = as_records(table([{"Accuracy": 90.0, "Score (+)": 1.0, "Score (-)": 2.0}]), "r", "now")
    assert (record["metric_score"], record["metric_score_2"]) == (1.0, 2.0)


def test_the_published_schemas_are_those_of_the_code() -> None:
    for kind in ("manifest", "results"):
        assert json.loads((DOCS / f"schemas/{kind}.json").read_text()) == schema(kind), f"pqbench schema {kind}"
    assert (DOCS / "columns.md").read_text() == markdown(), "pqbench schema results --markdown"
