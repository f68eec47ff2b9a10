"""Tables of results: titles, order and formats of columns.

The first eleven columns are those of "the thesis", the master thesis tool PQ Bench, which pqbench succeeds.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import typing
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pqbench_orchestrator.results.cell import OFF, CellResult, Confirmation, Timing
from pqbench_orchestrator.store.ledger import Ledger
from pqbench_orchestrator.store.samples import write_parquet as write_columns
from pqbench_wire.errors import InvalidInput

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet takes text that begins with one of these for a formula
Row = dict[str, Any]  # a cell's figures by column title, for CSV, Parquet and JSON


@dataclass(frozen=True)
class Column:
    """A column: its title, and where in a CellResult its figure is.

    Apart from the thesis' columns, a row has it only where the part of the result that holds the figure is not None.
    """

    title: str
    path: str  # attributes of CellResult, as "timing.median_ms"
    is_optional: bool = False  # left out of a row where the figure is not known


def _part(title: str, path: str) -> tuple[Column, ...]:
    """The columns of a PartAccuracy, with titles that begin with `title`."""
    return (
        Column(f"{title} Accuracy", f"{path}.percent"),
        Column(f"{title} Images", f"{path}.images"),
        Column(f"{title} Change", f"{path}.change.points"),
        Column(f"{title} Change Low", f"{path}.change.low"),
        Column(f"{title} Change High", f"{path}.change.high"),
    )


THESIS = (
    Column("Model", "model"),
    Column("Pruner", "pruner"),
    Column("Quantizer", "quantizer"),
    Column("Dataset", "dataset"),
    Column("Amount", "amount"),
    Column("Accuracy", "accuracy.top1_percent"),
    Column("Inference Time (ms)", "timing.median_ms"),
    Column("Original Size", "original_mb"),
    Column("Compressed Size", "compressed_mb"),
    Column("Batch Size", "batch_size"),
    Column("Prep Time (s)", "preparation_s"),
)
BEFORE_METRICS = (
    Column("Outcome", "outcome"),
    Column("Reason", "reason"),
    Column("Recipe", "recipe"),
    Column("Baseline", "is_baseline"),
    Column("Technique", "technique"),
    Column("Target", "target"),
    Column("Backend", "backend"),
    Column("Precision", "precision"),
    Column("Form", "form"),
    Column("Scenario", "scenario"),
    Column("Concurrency", "concurrency"),
    Column("Repeat", "repeat"),
    Column("Parameters", "variant.parameters"),
    Column("Non-zeros", "variant.nonzeros"),
    Column("Sparsity (%)", "variant.sparsity_percent"),
    Column("MACs", "variant.macs"),
    Column("State Dict (bytes)", "variant.state_dict_bytes"),
    Column("Artifact (bytes)", "variant.artifact_bytes", is_optional=True),
    Column("Export Time (s)", "variant.export_s"),
    Column("Executed Precision", "engine.executed_precision"),
    Column("Engine (bytes)", "engine.size_bytes"),
    Column("Build Time (s)", "engine.build_s"),
    Column("Options", "engine.options"),
    Column("Device", "engine.device"),
    Column("Settings", "engine.settings"),
    Column("Versions", "engine.versions"),
    Column("Fidelity (dB)", "fidelity.sqnr_db", is_optional=True),
    Column("Baseline Verified", "fidelity.is_baseline_verified", is_optional=True),
    Column("Artifact", "fidelity.artifact"),
    Column("Artifact Works", "fidelity.artifact_works", is_optional=True),
    Column("Warnings", "fidelity.warnings"),
)
AFTER_METRICS = (
    Column("Scored Images", "accuracy.images"),
    Column("Classes", "accuracy.classes"),
    Column("Stopped Early", "accuracy.stopped_early"),
    Column("Accuracy Low", "accuracy.low_percent", is_optional=True),
    Column("Accuracy High", "accuracy.high_percent", is_optional=True),
    Column("Accuracy Change", "accuracy.change.points"),
    Column("Accuracy Change Low", "accuracy.change.low"),
    Column("Accuracy Change High", "accuracy.change.high"),
    Column("McNemar p", "accuracy.mcnemar_p", is_optional=True),
    Column("Indistinguishable", "accuracy.is_indistinguishable", is_optional=True),
    *_part("Held-out", "held_out"),
    *_part("Selection", "selection"),
    *_part("Report", "report"),
)
TIMES = (
    Column("Median Low (ms)", "timing.median_low_ms"),
    Column("Median High (ms)", "timing.median_high_ms"),
    Column("Mean (ms)", "timing.mean_ms"),
    Column("Std (ms)", "timing.std_ms"),
    Column("P90 (ms)", "timing.p90_ms"),
    Column("P95 (ms)", "timing.p95_ms"),
    Column("P99 (ms)", "timing.p99_ms"),
    Column("P99.9 (ms)", "timing.p999_ms"),
    Column("Min (ms)", "timing.min_ms"),
    Column("Max (ms)", "timing.max_ms"),
    Column("Calls", "timing.calls"),
    Column("Images/s", "timing.images_per_s"),
    Column("Stable", "timing.is_stable"),
    Column("Unstable Because", "timing.unstable_reason"),
    Column("Load Time (s)", "timing.load_s"),
    Column("First Call (s)", "timing.first_call_s"),
    Column("Engine Memory (MB)", "timing.engine_memory_mb"),
    Column("Device Memory (MB)", "timing.device_memory_mb"),
    Column("Worker Peak Memory (MB)", "timing.worker_peak_mb"),
    Column("Load Average", "timing.load_average"),
    Column("Foreign Load (cores)", "timing.foreign_load_cores", is_optional=True),
    Column("Rate (1/s)", "timing.server.rate_per_s"),
    Column("Rate Searched", "timing.server.is_searched"),
    Column("Slip P99 (ms)", "timing.server.slip_p99_ms"),
    Column("Valid", "timing.server.is_valid"),
    Column("Invalid Because", "timing.server.invalid_reason"),
    Column("Energy (mJ/image)", "timing.energy.mj_per_image", is_optional=True),
    Column("Idle Power (W)", "timing.energy.idle_w", is_optional=True),
    Column("Energy Source", "timing.energy.source"),
    Column("Compute (ms)", "timing.device.compute_ms", is_optional=True),
    Column("H2D (ms)", "timing.device.h2d_ms", is_optional=True),
    Column("D2H (ms)", "timing.device.d2h_ms", is_optional=True),
    Column("GPU Power (W)", "timing.device.power_w", is_optional=True),
    Column("SM Clock Min (MHz)", "timing.device.clock_min_mhz", is_optional=True),
    Column("SM Clock Max (MHz)", "timing.device.clock_max_mhz", is_optional=True),
    Column("Baseline Time (ms)", "timing.comparison.baseline_ms"),
    Column("Paired", "timing.comparison.is_paired"),
    Column("Speedup", "timing.comparison.speedup"),
    Column("Speedup Low", "timing.comparison.speedup_low"),
    Column("Speedup High", "timing.comparison.speedup_high"),
    Column("Against Baseline", "timing.comparison.verdict"),
)
LAST = (
    Column("CUDA Graph", "timing.cuda_graph"),
    Column("Within-Run SD (%)", "timing.within_run_sd_percent"),
    Column("Between-Build SD (%)", "timing.between_build_sd_percent", is_optional=True),
    Column("Builds", "timing.builds", is_optional=True),
    Column("Speedup by MACs", "causes.breakdown.by_macs"),
    Column("Speedup by Bytes", "causes.breakdown.by_bytes"),
    Column("Converting (%)", "causes.breakdown.converting_percent"),
    Column("Outside Layers (%)", "causes.breakdown.outside_percent"),
    Column("Fallback Layers", "causes.breakdown.fallback_layers"),
    Column("Bound By", "causes.breakdown.bound_by"),
    Column("Why", "causes.text"),
    Column("Cell", "key"),
    Column("Median of Repeats (ms)", "timing.median_of_repeats_ms", is_optional=True),
    Column("Between-Session SD (%)", "timing.between_session_sd_percent", is_optional=True),
)
COLUMNS = (*THESIS, *BEFORE_METRICS, *AFTER_METRICS, *TIMES, *LAST)  # all but those of the metrics, which have TITLE
MEDIAN = Column("Inference Time (ms)", "timing.median_ms")
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


def write_csv(table: Sequence[CellResult], path: Path) -> None:
    """Write the table as CSV; the file appears whole or not at all."""
    rows = [as_row(cell) for cell in table]
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _columns(rows), restval="")
        writer.writeheader()
        writer.writerows(map(harmless, rows))
    partial.replace(path)


def write_parquet(table: Sequence[CellResult], path: Path) -> None:
    """Write the table as Parquet with typed columns; the file appears whole or not at all."""
    rows = [as_row(cell) for cell in table]
    write_columns({name: _typed([row.get(name) for row in rows]) for name in _columns(rows)}, path)


def harmless(row: Mapping[str, Any]) -> Row:
    """A row for a CSV file, with an apostrophe before text that a spreadsheet would take for a formula (OWASP)."""
    return {name: f"'{value}" if _is_formula(value) else value for name, value in row.items()}


def title_of(path: str) -> str:
    """The title of the column whose figure is at a path in CellResult, as "timing.median_ms"."""
    return next(column.title for column in COLUMNS if column.path == path)


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
    kinds = _kinds(kind)
    return kind(**{
        name: _built(kinds[name], value) if isinstance(value, dict) and name != "metrics" else value
        for name, value in values.items()
    })  # fmt: skip


@functools.cache
def _kinds(kind: Any) -> dict[str, Any]:
    """The kinds of a dataclass's fields: for one that may be a dataclass or None, the dataclass."""
    return {name: _dataclass_of(hint) for name, hint in typing.get_type_hints(kind).items()}


def _dataclass_of(hint: Any) -> Any:
    return next((one for one in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(one)), hint)


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
