"""Tables: titles, order, formats; rows of old runs."""

from __future__ import annotations

import csv
import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pqbench_orchestrator.results.cell import CellResult, Confirmation, Timing
from pqbench_orchestrator.results.tables import (
    COLUMNS,
    THESIS_COLUMNS,
    as_row,
    confirmation_as_row,
    confirmation_from_row,
    from_row,
    recorded,
    title_of,
    value_of,
    write_csv,
    write_parquet,
)
from pqbench_orchestrator.store.ledger import Ledger
from pqbench_wire.errors import InvalidInput

from ..cells import LEAST, cell, table

BY_TITLE = {"metrics"}  # whose plug-ins name their columns


def paths(kind: type[Any], prefix: str = "") -> Iterator[str]:
    """The attributes of a result, those of its parts with dots."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        part = next((one for one in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(one)), None)
        if isinstance(part, type):
            yield from paths(part, f"{prefix}{field.name}.")
        elif field.name not in BY_TITLE:
            yield prefix + field.name


def test_every_figure_of_a_result_is_a_column_and_every_column_a_figure() -> None:
    found = [column.path for column in COLUMNS]
    assert sorted(found) == sorted(paths(CellResult))
    assert len({column.title for column in COLUMNS}) == len(COLUMNS)


def test_a_result_becomes_a_row_and_the_row_the_result() -> None:
    """With a value of its own for every figure: none takes another's place."""
    values: dict[str, Any] = {column.title: f"value {n}" for n, column in enumerate(COLUMNS)}
    row = values | {"Top-1 (%)": 1.5, "Cosine Similarity": None}
    found = from_row(row)
    assert as_row(found) == row
    for n, column in enumerate(COLUMNS):
        assert value_of(found, column.path) == f"value {n}"
    assert tuple(as_row(found))[:11] == THESIS_COLUMNS


def test_what_was_not_reached_is_left_out_and_what_is_not_known_is_none() -> None:
    refused = as_row(cell({"Outcome": "refused", "Reason": "no route"}))
    assert refused["Accuracy"] is None and refused["Inference Time (ms)"] is None, (
        "the thesis' columns are in every row"
    )
    assert "Engine (bytes)" not in refused and "Median Low (ms)" not in refused and "Speedup" not in refused
    timed = as_row(cell({"Inference Time (ms)": 1.0, "Stable": True}))
    assert timed["Device Memory (MB)"] is None and "Compute (ms)" not in timed and "Rate (1/s)" not in timed


def test_the_table_as_csv_and_parquet(tmp_path: Path) -> None:
    cells = table([{"Outcome": "refused", "Reason": "a, b"}, {"Amount": 0.5, "Accuracy": 91.5, "Speedup": 2.0,
                                                              "Inference Time (ms)": 1.0}])  # fmt: skip
    write_csv(cells, tmp_path / "r.csv", "a-run", "now")
    with (tmp_path / "r.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0])[:11] == THESIS_COLUMNS and tuple(rows[0])[-2:] == ("Run", "Started")
    assert rows[0]["Reason"] == "a, b" and rows[1]["Accuracy"] == "91.5" and rows[0]["Accuracy"] == ""
    write_parquet(cells, tmp_path / "r.parquet", "a-run", "now")
    found = duckdb.read_parquet(str(tmp_path / "r.parquet"))
    back = [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]
    assert back[1]["accuracy_top1_percent"] == 91.5 and back[0]["accuracy_top1_percent"] is None
    assert back[1]["amount"] == "0.5" and back[1]["speedup"] == 2.0 and back[1]["is_baseline"] is False
    assert back[0]["run"] == "a-run" and rows[0]["Run"] == "a-run" and rows[1]["Started"] == "now"


def test_a_table_without_cells_is_written(tmp_path: Path) -> None:
    write_parquet([], tmp_path / "r.parquet", "a-run", "now")
    found = duckdb.read_parquet(str(tmp_path / "r.parquet"))
    assert len(found) == 0 and found.columns[:3] == ["run", "started", "model"]


def test_rows_of_older_versions_are_whole(tmp_path: Path) -> None:
    old = {name: LEAST[name] for name in LEAST if name != "Concurrency"} | {"Pruner": "-", "Quantizer": "int8-static"}
    newer = old | {"Concurrency": 2, "Technique": "int8(images=8)"}
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.record_cells([("a", "ok", "", old), ("b", "ok", "", newer)])
        first, second = sorted(recorded(ledger), key=lambda one: one.concurrency)
    assert (first.concurrency, first.scenario, first.is_baseline) == (1, "single-stream", False)
    assert (first.technique, second.technique) == ("int8-static", "int8(images=8)") and second.concurrency == 2


def test_a_recipe_that_only_tunes_is_no_baseline_in_rows_of_older_versions() -> None:
    old = {"Pruner": "-", "Quantizer": "-", "Inference Time (ms)": 1.0}
    assert cell(old).is_baseline
    assert not cell(old | {"Baseline Time (ms)": 2.0}).is_baseline
    assert not cell(old | {"Accuracy Change": -1.0}).is_baseline


def test_a_row_without_what_every_cell_has_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"a cell is damaged: .*model"):
        from_row({"Cell": "c", "Outcome": "ok"})


def test_a_confirmation_becomes_a_row_and_the_row_the_confirmation() -> None:
    measured = Confirmation(timing=Timing(median_ms=1.5, p99_ms=2.0, is_stable=True))
    row = confirmation_as_row(measured)
    assert (
        row["Inference Time (ms)"] == 1.5 and row["P99 (ms)"] == 2.0 and "CUDA Graph" not in row and "Cell" not in row
    )
    assert confirmation_from_row(row) == measured
    failed = Confirmation(error="gone")
    assert confirmation_as_row(failed) == {"Error": "gone"} and confirmation_from_row({"Error": "gone"}) == failed


def test_a_spreadsheet_finds_no_formula(tmp_path: Path) -> None:
    row = {"Model": "=HYPERLINK(1)", "Recipe": "-", "Target": "@x", "Accuracy": -1.5, "Reason": "+1", "Pruner": "a=b"}
    write_csv([cell(row)], tmp_path / "t.csv", "a-run", "now")
    with (tmp_path / "t.csv").open(newline="") as file:
        read = next(csv.DictReader(file))
    assert read["Model"] == "'=HYPERLINK(1)" and read["Target"] == "'@x" and read["Reason"] == "'+1"
    assert read["Recipe"] == "-" and read["Accuracy"] == "-1.5" and read["Pruner"] == "a=b"


def test_titles_are_found_by_figure() -> None:
    assert title_of("timing.median_ms") == "Inference Time (ms)"
    with pytest.raises(StopIteration):
        title_of("timing.medain_ms")
