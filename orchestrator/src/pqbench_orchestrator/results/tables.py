"""Results as rows, and rows as results; tables of them as CSV and Parquet."""

from __future__ import annotations

import csv
import typing
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pqbench_orchestrator.results.cell import OFF, CellResult, Confirmation, Timing
from pqbench_orchestrator.results.columns import (
    AFTER_METRICS,
    BEFORE_METRICS,
    COLUMNS,
    LAST,
    THESIS,
    TIMES,
    Column,
    field_types,
    metric_name,
)
from pqbench_orchestrator.store.ledger import Ledger
from pqbench_orchestrator.store.samples import write_parquet as write_columns
from pqbench_wire.errors import InvalidInput

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet takes text that begins with one of these for a formula
Row = dict[str, Any]  # a cell's figures by column title, for CSV and the ledger
Record = dict[str, Any]  # the same by column name, for JSON and Parquet


MEDIAN = next(column for column in THESIS if column.path == "timing.median_ms")
THESIS_COLUMNS = tuple(column.title for column in THESIS)
TITLES = frozenset(column.title for column in COLUMNS)


def as_row(cell: CellResult) -> Row:
    """A result by column title.

    The thesis' columns are always there. Others are left out where their part of the result was not reached, and
    optional ones also where the figure is not known. Any other unknown figure is None.
    """
    metrics = dict(cell.accuracy.metrics) if cell.accuracy else {}
    thesis = {column.title: value_of(cell, column.path) for column in THESIS}
    return thesis | _row(cell, BEFORE_METRICS) | metrics | _row(cell, (*AFTER_METRICS, *TIMES, *LAST))


def as_records(table: Sequence[CellResult], run: str, started: str) -> list[Record]:
    """Results by column name, for JSON and Parquet: the same keys in every record, None where a figure is not known.

    `run`: the run's name; `started`: when it began, ISO 8601.
    """
    names = _names_of_metrics(table)
    return [
        {"run": run, "started": started}
        | {column.name: value_of(cell, column.path) for column in COLUMNS}
        | {name: cell.accuracy.metrics.get(title) if cell.accuracy else None for title, name in names.items()}
        for cell in table
    ]


def _names_of_metrics(table: Sequence[CellResult]) -> dict[str, str]:
    """Title -> name of each metric of a table; of titles that would have the same name, later ones get a number."""
    names: dict[str, str] = {}
    for title in (title for cell in table if cell.accuracy for title in cell.accuracy.metrics):
        if title not in names:
            same = sum(metric_name(other) == metric_name(title) for other in names)
            names[title] = metric_name(title) + (f"_{same + 1}" if same else "")
    return names


def from_row(row: Mapping[str, Any]) -> CellResult:
    """The result from which `as_row` made a row. Raises InvalidInput where it lacks what every cell has."""
    values: dict[str, Any] = {}
    for column in COLUMNS:
        if column.title in row:
            _put(values, column.path.split("."), row[column.title])
    for part, figure in (("accuracy", "top1_percent"), ("timing", "median_ms")):  # the thesis' columns are in every row
        if values.get(part) == {figure: None}:
            del values[part]
    if "accuracy" in values:
        values["accuracy"]["metrics"] = {title: row[title] for title in row if title not in TITLES}
    values |= {name: value for name, value in _left_out(values).items() if name not in values}
    try:
        return typing.cast(CellResult, _built(CellResult, values))
    except TypeError as error:
        raise InvalidInput(f"a cell is damaged: {error}; pqbench run --continue writes it again") from error


def confirmation_as_row(found: Confirmation) -> Row:
    """A measurement made after a choice, by column title; or {"Error": the reason} where there is none."""
    if found.timing is None:
        return {"Error": found.error}
    return {
        MEDIAN.title: found.timing.median_ms,
    } | {column.title: value for column, value in _known(found, TIMES)}


def confirmation_as_record(found: Confirmation) -> Record:
    """A measurement made after a choice by column name; or {"error": the reason} where there is none."""
    if found.timing is None:
        return {"error": found.error}
    return {column.name: value_of(found, column.path) for column in (MEDIAN, *TIMES)}


def confirmation_from_row(row: Mapping[str, Any]) -> Confirmation:
    """The confirmation from which `confirmation_as_row` made a row."""
    if "Error" in row:
        return Confirmation(error=str(row["Error"]))
    values: dict[str, Any] = {}
    for column in (MEDIAN, *TIMES):
        if column.title in row:
            _put(values, column.path.split("."), row[column.title])
    return Confirmation(timing=typing.cast(Timing, _built(Timing, values["timing"])))


def recorded(ledger: Ledger) -> list[CellResult]:
    """The results of the newest plan's cells that are in a run's ledger. Raises InvalidInput where one is damaged."""
    return [from_row(row) for row in ledger.cells()]


def write_csv(table: Sequence[CellResult], path: Path, run: str, started: str) -> None:
    """Write the table as CSV by title, with the run's name and start; the file appears whole or not at all."""
    rows = [as_row(cell) for cell in table]
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*_columns(rows), "Run", "Started"], restval="")
        writer.writeheader()
        writer.writerows(harmless(row | {"Run": run, "Started": started}) for row in rows)
    partial.replace(path)


def write_parquet(table: Sequence[CellResult], path: Path, run: str, started: str) -> None:
    """Write the records as Parquet with typed columns; the file appears whole or not at all."""
    records = as_records(table, run, started)
    names = ["run", "started", *(column.name for column in COLUMNS), *_names_of_metrics(table).values()]
    write_columns({name: _typed([one[name] for one in records]) for name in names}, path)


def harmless(row: Mapping[str, Any]) -> Row:
    """A row for a CSV file, with an apostrophe before text that a spreadsheet would take for a formula (OWASP)."""
    return {name: f"'{value}" if _is_formula(value) else value for name, value in row.items()}


def title_of(path: str) -> str:
    """The title of the column whose figure is at a path in CellResult, as "timing.median_ms"."""
    return next(column.title for column in COLUMNS if column.path == path)


def count_reasons(table: Iterable[CellResult]) -> Counter[tuple[str, str]]:
    """How many cells have each outcome with each reason."""
    return Counter((cell.outcome, cell.reason) for cell in table if cell.reason)


def count_unstable(table: Iterable[CellResult]) -> int:
    """How many cells have unstable times."""
    return sum(cell.is_unstable for cell in table)


def count_outcomes(table: Iterable[CellResult]) -> Counter[str]:
    """How many cells have each outcome."""
    return Counter(cell.outcome for cell in table)


def _row(cell: CellResult, columns: Sequence[Column]) -> Row:
    return {column.title: value for column, value in _known(cell, columns)}


def _known(record: object, columns: Sequence[Column]) -> Iterable[tuple[Column, Any]]:
    """Those columns whose part of the record is not None, with their figures; unknown optional ones are left out."""
    for column in columns:
        parent, _, name = column.path.rpartition(".")
        part = value_of(record, parent) if parent else record
        if part is None:
            continue
        value = getattr(part, name)
        if value is not None or not column.is_optional:
            yield column, value


def value_of(record: object, path: str) -> Any:
    """The figure at a path in a result, as "timing.median_ms"; None where it, or a part on the way, is None."""
    value: Any = record
    for name in path.split("."):
        value = getattr(value, name) if value is not None else None
    return value


def _put(values: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        values = values.setdefault(name, {})
    values[path[-1]] = value


def _built(kind: Any, values: Mapping[str, Any]) -> Any:
    """A dataclass `kind` from nested mappings; raises TypeError where values are missing or unknown."""
    kinds = field_types(kind)
    return kind(**{
        name: _built(kinds[name], value) if isinstance(value, dict) and name != "metrics" else value
        for name, value in values.items()
    })  # fmt: skip


def _left_out(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values that rows of old versions lack, derived from other values."""
    kinds = [values.get("pruner"), values.get("quantizer")]
    timing, accuracy = values.get("timing", {}), values.get("accuracy", {})
    # A recipe that only fine-tunes has no pruner and no quantizer either, but is measured against the baseline.
    compared = timing.get("comparison") is not None or accuracy.get("change") is not None
    return {
        "is_baseline": kinds == [OFF, OFF] and not compared,
        "technique": " + ".join(str(name) for name in kinds if name != OFF) or OFF,
    }


def _is_formula(value: Any) -> bool:
    return isinstance(value, str) and len(value) > 1 and value.startswith(FORMULA)


def _columns(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys([*THESIS_COLUMNS, *(name for row in rows for name in row)]))


def _typed(values: list[Any]) -> np.ndarray:
    """A column's values as an array: numbers with unknown ones masked; with any text (Amount's "-"), all as text."""
    kinds = {type(value) for value in values if value is not None}
    unknown = [value is None for value in values]
    for numbers, dtype in (({bool}, np.bool_), ({int}, np.int64), ({int, float}, np.float64)):
        if kinds and kinds <= numbers:
            return np.ma.masked_array(np.array([value or 0 for value in values], dtype), unknown)
    return np.array([None if value is None else str(value) for value in values], object)
