"""Tables: one row a cell, from the plan and the ledger. The CSV begins with the thesis' eleven columns."""

from __future__ import annotations

import csv
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from google.protobuf import json_format

from pqbench.common.v1.common_pb2 import Form
from pqbench.compressor.v1.compressor_pb2 import CompressResult
from pqbench.runtime.v1.runtime_pb2 import BuildEngineResult, EngineTiming, GpuReading, MeasureResult
from pqbench_orchestrator.ledger import Ledger, StepRecord
from pqbench_orchestrator.manifest import KINDS, WITHOUT_METHOD, Recipe, Step
from pqbench_orchestrator.metric import METRICS
from pqbench_orchestrator.plan import DIAGNOSTICS, Cell, Plan
from pqbench_orchestrator.stats import (
    BETTER,
    NORMAL,
    SAME,
    WORSE,
    PairedDifference,
    Ratio,
    paired_difference,
    paired_speedup,
    selection_half,
    spread_percent,
    unpaired_ratio,
    verdict,
    wilson,
)
from pqbench_orchestrator.why import explain
from pqbench_wire import fidelity
from pqbench_wire.blobs import BlobStore

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with which a spreadsheet's formula begins
MB = 1_000_000
MS = 1000
Row = dict[str, Any]
THESIS_COLUMNS = (
    "Model", "Pruner", "Quantizer", "Dataset", "Amount", "Accuracy", "Inference Time (ms)", "Original Size",
    "Compressed Size", "Batch Size", "Prep Time (s)",
)  # fmt: skip
OFF = "-"  # where a technique is not used
AS_IT_IS = "loads as it is"
AGAINST = {BETTER: "faster", WORSE: "slower", SAME: "same"}
WORST_FIRST = ("failed", "unavailable", "refused")


def rows(plan: Plan, ledger: Ledger, store: BlobStore) -> list[Row]:
    """A row for every cell, in the plan's order; a value that is not known is absent (None)."""
    table = [_row(cell, ledger, store) for cell in plan.cells]
    _add_sessions(plan, table)
    return table


def recorded(ledger: Ledger) -> list[Row]:
    """The rows that a run's ledger keeps, of its newest plan; those of older versions with what they leave out."""
    return [row | {name: value for name, value in _left_out(row).items() if name not in row} for row in ledger.cells()]


def _left_out(row: Row) -> Row:
    kinds = [row["Pruner"], row["Quantizer"]]
    return {
        "Concurrency": 1,
        "Scenario": "single-stream",
        # A recipe that only fine-tunes has no pruner and no quantizer either, but is measured against the baseline.
        "Baseline": kinds == [OFF, OFF]
        and row.get("Baseline Time (ms)") is None
        and row.get("Accuracy Change") is None,
        "Technique": " + ".join(name for name in kinds if name != OFF) or OFF,
    }


def _add_sessions(plan: Plan, table: list[Row]) -> None:
    """What the repeats of a cell have in common: the median that the thesis reports, and how sessions differ."""
    sessions: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for cell, row in zip(plan.cells, table, strict=True):
        if row.get("Inference Time (ms)") is not None:
            key = (cell.model, cell.dataset, cell.recipe.label, cell.target.name, cell.batch_size, cell.concurrency)
            sessions[key].append(row)
    for rows_of_one in (group for group in sessions.values() if len(group) > 1):
        medians = [row["Inference Time (ms)"] for row in rows_of_one]
        for row in rows_of_one:
            row["Median of Repeats (ms)"] = float(np.median(medians))
            row["Between-Session SD (%)"] = spread_percent([medians])


def write_csv(table: list[Row], path: Path) -> None:
    """The table as CSV; written whole or not at all."""
    columns = _columns(table)
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(map(harmless, table))
    partial.replace(path)


def harmless(row: Row) -> Row:
    """A row for a CSV file: text that a spreadsheet would take for a formula begins with an apostrophe (OWASP)."""
    return {name: f"'{value}" if _is_formula(value) else value for name, value in row.items()}


def _is_formula(value: Any) -> bool:
    return isinstance(value, str) and len(value) > 1 and value.startswith(FORMULA)


def write_parquet(table: list[Row], path: Path) -> None:
    """The table as Parquet with typed columns."""
    _write({name: _typed([row.get(name) for row in table]) for name in _columns(table)}, path)


def write_samples(plan: Plan, ledger: Ledger, store: BlobStore, path: Path) -> None:
    """All raw samples: cell, build (0, replicates from 1), role (variant or baseline), block, start and latency; and
    compute, h2d and d2h where a device has events. Seconds; not a number where a cell has none.
    """
    parts: list[dict[str, np.ndarray]] = []
    for cell in plan.cells:
        for build, record in enumerate(_measurements(ledger, cell)):
            if record is not None:
                arrays = store.archive(_message(record, MeasureResult).samples)
                parts += _samples(arrays, cell.key, build)
    if parts:
        names = dict.fromkeys(name for part in parts for name in part)
        _write({name: np.concatenate([_filled(part, name) for part in parts]) for name in names}, path)


def _measurements(ledger: Ledger, cell: Cell) -> list[StepRecord | None]:
    """Of the engine and of its replicates."""
    return [_done(ledger, cell, role) for role in cell.steps if role == "measure" or role.startswith("measure ")]


def _samples(arrays: dict[str, np.ndarray], cell: str, build: int) -> Iterator[dict[str, np.ndarray]]:
    for index, role in enumerate(("variant", "baseline")):
        names = ("block", "start", "latency", "compute", "h2d", "d2h")
        columns = {name: arrays[f"{name}_{index}"] for name in names if f"{name}_{index}" in arrays}
        if columns:
            count = len(columns["latency"])
            said = {"cell": np.full(count, cell), "build": np.full(count, build), "role": np.full(count, role)}
            yield said | columns


def _filled(part: dict[str, np.ndarray], name: str) -> np.ndarray:
    return part[name] if name in part else np.full(len(part["latency"]), np.nan)


def _columns(table: list[Row]) -> list[str]:
    return list(dict.fromkeys([*THESIS_COLUMNS, *(name for row in table for name in row)]))


def _typed(values: list[Any]) -> np.ndarray:
    """Numbers as numbers, the unknown masked; a column that mixes numbers with text (Amount's "-") as text."""
    kinds = {type(value) for value in values if value is not None}
    unknown = [value is None for value in values]
    for numbers, dtype in (({bool}, np.bool_), ({int}, np.int64), ({int, float}, np.float64)):
        if kinds and kinds <= numbers:
            return np.ma.masked_array(np.array([value or 0 for value in values], dtype), unknown)
    return np.array([None if value is None else str(value) for value in values], object)


def _write(columns: dict[str, np.ndarray], path: Path) -> None:
    partial = path.with_suffix(".partial")
    with duckdb.connect() as connection:
        connection.register("columns", columns)
        connection.table("columns").write_parquet(str(partial), compression="zstd")
    partial.replace(path)


def _row(cell: Cell, ledger: Ledger, store: BlobStore) -> Row:
    prune = [step for step in cell.recipe.steps if step.kind == "prune"]
    quantize = [step for step in cell.recipe.steps if step.kind == "quantize"]
    row: Row = dict.fromkeys(THESIS_COLUMNS)
    row |= {
        "Model": cell.model,
        "Pruner": " + ".join(step.method.rpartition(":")[2] for step in prune) or OFF,
        "Quantizer": " + ".join(step.method.rpartition(":")[2] for step in quantize) or OFF,
        "Dataset": cell.dataset,
        "Amount": next((step.config["amount"] for step in prune if "amount" in step.config), OFF),
        "Batch Size": cell.batch_size,
        "Outcome": "",
        "Reason": "",
        "Recipe": cell.recipe.label,
        "Baseline": not cell.recipe.steps,
        "Technique": _technique(cell.recipe),
        "Target": cell.target.name,
        "Backend": cell.target.backend,
        "Precision": cell.precision or None,
        "Form": cell.form or None,
        "Scenario": cell.scenario,
        "Concurrency": cell.concurrency,
        "Repeat": cell.repeat,
    }
    row["Outcome"], row["Reason"] = _outcome(cell, ledger)
    _add_variant(row, cell, ledger, bool(quantize))
    _add_engine(row, cell, ledger, bool(quantize))
    _add_fidelity(row, cell, ledger)
    _add_scores(row, cell, ledger, store)
    _add_held_out(row, cell, ledger, store)
    _add_halves(row, cell, ledger, store)
    _add_times(row, cell, ledger, store)
    _add_causes(row, cell, ledger)
    row["Cell"] = cell.key
    return row


def _technique(recipe: Recipe) -> str:
    """What a recipe does but for the amounts, as "removal(criterion=taylor) + finetune(epochs=2)"."""
    return " + ".join(_step_without_amount(step) for step in recipe.steps) or OFF


def _step_without_amount(step: Step) -> str:
    name = step.kind if step.kind in WITHOUT_METHOD else step.method.rpartition(":")[2]
    chosen = ", ".join(f"{key}={value}" for key, value in sorted(step.config.items()) if key != "amount")
    return f"{name}({chosen})" if chosen else name


def _outcome(cell: Cell, ledger: Ledger) -> tuple[str, str]:
    if cell.outcome:
        return cell.outcome, cell.reason
    records = [ledger.step(key) for role, key in cell.steps.items() if role not in DIAGNOSTICS]
    unfinished = [record for record in records if record is not None and not record.done]
    for outcome in WORST_FIRST:
        if reasons := [record.reason for record in unfinished if record.outcome == outcome]:
            return outcome, reasons[0]
    if any(record is None or not record.done for record in records):
        return "unavailable", "the run was interrupted before this cell; --continue finishes it"
    return "ok", ""


def _add_variant(row: Row, cell: Cell, ledger: Ledger, quantized: bool) -> None:
    variant, unpruned = _done(ledger, cell, "variant"), _done(ledger, cell, "unpruned")
    if variant is None:
        return
    result = _message(variant, CompressResult)
    statistics = result.statistics
    if unpruned is not None:
        row["Original Size"] = _message(unpruned, CompressResult).statistics.state_dict_bytes / MB
    if not quantized and statistics.state_dict_bytes:
        row["Compressed Size"] = statistics.state_dict_bytes / MB
    row["Parameters"] = statistics.parameters
    row["Non-zeros"] = statistics.nonzeros
    row["Sparsity (%)"] = 100 * (1 - statistics.nonzeros / statistics.parameters) if statistics.parameters else None
    row["MACs"] = statistics.macs if statistics.HasField("macs") else None
    row["State Dict (bytes)"] = statistics.state_dict_bytes or None
    for artifact in result.artifacts:
        if Form.Name(artifact.form).removeprefix("FORM_") == cell.form:
            row["Artifact (bytes)"] = artifact.blob.size
    row["Prep Time (s)"] = _preparation(cell, ledger)
    row["Export Time (s)"] = dict(result.stage_seconds).get("export")


def _preparation(cell: Cell, ledger: Ledger) -> float:
    """Seconds of pruning, fine-tuning and quantizing with calibration, over all steps of the recipe."""
    records = [ledger.step(key) for key in cell.preparation]
    stages = [r.result.get("stageSeconds", {}) for r in records if r is not None and r.result is not None]
    return sum(float(seconds.get(kind, 0)) for seconds in stages for kind in KINDS)


def _add_engine(row: Row, cell: Cell, ledger: Ledger, quantized: bool) -> None:
    record = _done(ledger, cell, "build")
    if record is None:
        return
    result = _message(record, BuildEngineResult)
    if quantized:
        row["Compressed Size"] = result.engine.blob.size / MB
    row["Executed Precision"] = ", ".join(f"{name} {count}" for name, count in sorted(result.executed.items()))
    row["Engine (bytes)"] = result.engine.blob.size
    row["Build Time (s)"] = result.build_seconds
    row["Options"] = result.engine.options_json
    row["Device"] = result.engine.built_on or None
    row["Settings"] = "; ".join(f"{name}={value}" for name, value in sorted(result.settings.items()))
    row["Versions"] = "; ".join(f"{name}={value}" for name, value in sorted(result.versions.items()))


def _add_fidelity(row: Row, cell: Cell, ledger: Ledger) -> None:
    """How near the engine comes to the model itself, and what somebody finds who is given the artifact alone."""
    warnings = []
    record = _done(ledger, cell, "fidelity")
    if record is not None and record.result is not None:
        decibels = float(record.result["sqnr_db"])
        row["Fidelity (dB)"] = decibels
        if cell.recipe.steps and decibels < (least := _usual_fidelity(cell, ledger)):
            warnings.append(
                f"outputs are {decibels:.1f} dB from the model's own, {least:.0f} are usual for {cell.precision}"
            )
    baseline = _record(ledger, cell, "baseline fidelity")
    if cell.recipe.steps and baseline is not None and baseline.outcome in ("ok", "failed"):
        row["Baseline Verified"] = baseline.outcome == "ok"
        if not row["Baseline Verified"]:
            warnings.append(f"the baseline that it is compared with was not verified: {baseline.reason}")
    row |= _artifact_columns(ledger, cell)
    if row["Artifact"] not in (None, AS_IT_IS):
        warnings.append(f"artifact: {row['Artifact']}")
    row["Warnings"] = "; ".join(warnings) or None


def _usual_fidelity(cell: Cell, ledger: Ledger) -> float:
    """In dB: by the precision that was asked for; what is asked for in FP32 may execute in TF32."""
    build = _done(ledger, cell, "build")
    if cell.precision == "FP32" and build is not None and build.result is not None:
        return fidelity.least_of_engine(build.result.get("executed", {}))
    return fidelity.LEAST_ASKED.get(cell.precision, fidelity.LEAST_ANY)


def _artifact_columns(ledger: Ledger, cell: Cell) -> Row:
    """What loading the artifact with the runtime's defaults gives, and what it needs where that is wrong."""
    record = _record(ledger, cell, "artifact")
    if record is None or (record.done and not (record.result or {}).get("trials")):
        return {"Artifact": None}
    if not record.done:
        return {"Artifact": f"could not be tried: {record.reason}"}
    assert record.result is not None
    first, *others = record.result["trials"]
    if not first.get("problem"):
        return {"Artifact": AS_IT_IS, "Artifact Works": True}
    right = next((one["way"] for one in others if not one.get("problem")), None)
    needed = f"it needs {right}" if right else "nothing that was tried helps"
    said = f"with {cell.target.backend}'s defaults {first['problem']}; {needed}"
    return {"Artifact": said, "Artifact Works": right is not None}


def _add_scores(row: Row, cell: Cell, ledger: Ledger, store: BlobStore) -> None:
    record = _done(ledger, cell, "score")
    if record is None or record.result is None:
        return
    metrics = record.result["metrics"]
    row["Accuracy"] = metrics.get("top1")
    for name, value in metrics.items():
        row[METRICS.load(name).TITLE] = value
    row["Scored Images"] = record.result["images"]
    row["Classes"] = record.result.get("classes")
    row["Stopped Early"] = record.result.get("stopped") or None
    if "right" in record.result:
        variant, baseline = store.array_of(record.result["right"])
        low, high = wilson(int(variant.sum()), len(variant))
        row["Accuracy Low"], row["Accuracy High"] = 100 * low, 100 * high
        if cell.recipe.steps:
            row |= change_columns(paired_difference(variant, baseline))


def speedup_error(repeats: Sequence[Row]) -> float:
    """Standard error of the mean logarithm of a cell's paired speed-ups; infinite where one has no interval."""
    errors = []
    for row in repeats:
        low, high = row.get("Speedup Low"), row.get("Speedup High")
        if not (row.get("Paired") and low and high):
            return math.inf
        errors.append((math.log(high) - math.log(low)) / (2 * NORMAL))
    return math.hypot(*errors) / len(errors)


def _add_held_out(row: Row, cell: Cell, ledger: Ledger, store: BlobStore) -> None:
    """Accuracy on held-out training images, which choices between recipes look at."""
    record = _done(ledger, cell, "held-out score")
    if record is None or record.result is None or "right" not in record.result:
        return
    variant, baseline = store.array_of(record.result["right"])
    row |= _part_columns("Held-out", variant, baseline)


def _add_halves(row: Row, cell: Cell, ledger: Ledger, store: BlobStore) -> None:
    """Accuracy on the half of the scoring split that choices look at, and on the other half, which reports."""
    record, inputs = _done(ledger, cell, "score"), _done(ledger, cell, "inputs")
    if cell.selection != "half" or record is None or inputs is None or "right" not in (record.result or {}):
        return
    assert record.result is not None and inputs.result is not None
    variant, baseline = store.array_of(record.result["right"])
    labels = store.array_of(inputs.result["labels"])
    selecting = selection_half(labels, cell.seed)
    predict = _done(ledger, cell, "predict")
    if predict is not None and "indices" in (predict.result or {}):  # it was stopped early
        assert predict.result is not None
        selecting = selecting[store.array_of(predict.result["indices"])]
    for name, part in (("Selection", selecting), ("Report", ~selecting)):
        if part.any():
            row |= _part_columns(name, variant[part], baseline[part])


def _part_columns(name: str, variant: np.ndarray, baseline: np.ndarray) -> Row:
    """Accuracy on some of the images; `variant` and `baseline` say which were right."""
    change = paired_difference(variant, baseline)
    return {
        f"{name} Accuracy": 100 * float(variant.mean()), f"{name} Images": len(variant),
        f"{name} Change": change.points, f"{name} Change Low": change.low, f"{name} Change High": change.high,
    }  # fmt: skip


def change_columns(change: PairedDifference) -> Row:
    """How accuracy differs from the baseline's on the same target and images, in points."""
    return {
        "Accuracy Change": change.points,
        "Accuracy Change Low": change.low,
        "Accuracy Change High": change.high,
        "McNemar p": change.p,
        "Indistinguishable": change.indistinguishable,
    }


def _add_times(row: Row, cell: Cell, ledger: Ledger, store: BlobStore) -> None:
    record = _done(ledger, cell, "measure")
    if record is None:
        return
    result = _message(record, MeasureResult)
    blocks = store.archive(result.samples)
    row |= time_columns(result, blocks, cell.batch_size, cell.scenario)
    row["CUDA Graph"] = dict(result.timings[0].settings).get("cuda_graph")
    unpaired = _done(ledger, cell, "baseline measure")
    if unpaired is not None:
        baseline = _message(unpaired, MeasureResult)
        ratio = unpaired_ratio(block_medians(store.archive(baseline.samples)), block_medians(blocks))
        row |= {"Baseline Time (ms)": baseline.timings[0].median * MS, "Paired": False} | speedup_columns(ratio)
    _add_variance(row, cell, ledger, store, blocks)


def time_columns(result: MeasureResult, arrays: dict[str, np.ndarray], batch_size: int, scenario: str) -> Row:
    """What a measurement says of its first engine, against the second where there is one; `arrays`: its samples."""
    own: EngineTiming = result.timings[0]
    row: Row = {"Inference Time (ms)": own.median * MS}
    for title, value in (
        ("Median Low (ms)", own.median_low), ("Median High (ms)", own.median_high), ("Mean (ms)", own.mean),
        ("Std (ms)", own.std), ("P90 (ms)", own.p90), ("P95 (ms)", own.p95), ("P99 (ms)", own.p99),
        ("P99.9 (ms)", own.p999), ("Min (ms)", own.min), ("Max (ms)", own.max),
    ):  # fmt: skip
        row[title] = value * MS
    row["Calls"] = own.count
    row["Images/s"] = batch_size * (1 / own.median if scenario == "single-stream" else own.calls_per_second)
    row["Stable"] = own.stable
    row["Unstable Because"] = own.unstable_reason or None
    row["Load Time (s)"] = own.load_seconds
    row["First Call (s)"] = own.first_call_seconds
    row["Engine Memory (MB)"] = own.memory_bytes / MB if own.HasField("memory_bytes") else None
    row["Device Memory (MB)"] = own.device_memory_bytes / MB if own.HasField("device_memory_bytes") else None
    row["Worker Peak Memory (MB)"] = result.peak_rss_bytes / MB if result.HasField("peak_rss_bytes") else None
    row["Load Average"] = result.load_average_before
    if result.load:
        row["Foreign Load (cores)"] = float(np.mean([one.foreign_cores for one in result.load]))
    row |= server_columns(own) | energy_columns(own, batch_size) | device_columns(result)
    if len(result.timings) > 1:
        ratio = paired_speedup(arrays["latency_0"], arrays["block_0"], arrays["latency_1"], arrays["block_1"])
        row |= {"Baseline Time (ms)": result.timings[1].median * MS, "Paired": True} | speedup_columns(ratio)
    return row


def speedup_columns(ratio: Ratio) -> Row:
    """A speed-up with its interval; one without an end is absent."""
    high = ratio.high if math.isfinite(ratio.high) else None
    latency = Ratio(value=1 / ratio.value, low=1 / ratio.high, high=1 / ratio.low if ratio.low else math.inf)
    return {
        "Speedup": ratio.value,
        "Speedup Low": ratio.low,
        "Speedup High": high,
        "Against Baseline": AGAINST[verdict(latency)],
    }


def _add_variance(row: Row, cell: Cell, ledger: Ledger, store: BlobStore, arrays: dict[str, np.ndarray]) -> None:
    """How the medians of blocks differ inside a measurement, and those of engines built anew from each other."""
    replicates = _measurements(ledger, cell)[1:]
    results = [_message(record, MeasureResult) for record in replicates if record is not None]
    blocks = [block_medians(arrays), *(block_medians(store.archive(one.samples)) for one in results)]
    row["Within-Run SD (%)"] = spread_percent(blocks)
    if results:
        medians = [row["Inference Time (ms)"] / MS, *(one.timings[0].median for one in results)]
        row["Between-Build SD (%)"] = spread_percent([medians])
        row["Builds"] = len(medians)


def _add_causes(row: Row, cell: Cell, ledger: Ledger) -> None:
    """Where the time goes, for the question why a cell is not faster."""
    profile = _record(ledger, cell, "profile")
    if profile is not None and not profile.done:
        row["Why"] = f"Its layers could not be timed: {profile.reason}"
    if profile is None or not profile.done or row["Outcome"] != "ok":
        return
    records = {role: _done(ledger, cell, role) for role in cell.steps}
    found = explain(row, {role: one.result for role, one in records.items() if one is not None and one.result})
    row["Speedup by MACs"], row["Speedup by Bytes"] = found.by_macs, found.by_bytes
    row["Converting (%)"] = None if found.converting is None else 100 * found.converting
    row["Outside Layers (%)"] = None if found.outside is None else 100 * found.outside
    row["Fallback Layers"] = len(found.fell_back)
    row["Bound By"] = ", ".join(found.flags) or None
    row["Why"] = found.text


def block_medians(arrays: dict[str, np.ndarray]) -> list[float]:
    """Medians of the first engine's blocks, seconds."""
    latency, block = arrays["latency_0"], arrays["block_0"]
    return [float(np.median(latency[block == number])) for number in np.unique(block)]


def server_columns(timing: EngineTiming) -> Row:
    """What the server scenario found; nothing for the others."""
    if not timing.HasField("server"):
        return {}
    found = timing.server
    invalid = found.invalid_reason or ("" if found.met else "no rate met the bound of the 99th percentile")
    return {
        "Rate (1/s)": found.rate,
        "Rate Searched": len(found.probes) > 1,
        "Slip P99 (ms)": found.slip_p99 * MS,
        "Valid": found.valid and found.met,
        "Invalid Because": invalid or None,
    }


def energy_columns(timing: EngineTiming, batch_size: int) -> Row:
    """Energy of one image, idle subtracted; where it was not measured, the reason."""
    if not timing.HasField("joules_per_call"):
        return {"Energy Source": timing.energy_source} if timing.energy_source else {}
    return {
        "Energy (mJ/image)": timing.joules_per_call / batch_size * 1000,
        "Idle Power (W)": timing.idle_watts,
        "Energy Source": timing.energy_source,
    }


def device_columns(result: MeasureResult) -> Row:
    """What the device's own clock and NVML say of the first engine; nothing where there is no GPU.

    Medians of compute and copies in ms; mean power (W), by the counter of energy where there is one, and SM clock (MHz)
    over the measurement, of the whole board, where the engine was measured alone. The first reading is of the board at
    rest.
    """
    titles = {"compute": "Compute (ms)", "h2d": "H2D (ms)", "d2h": "D2H (ms)"}
    device = result.timings[0].device
    row: Row = {title: device[part].median * MS for part, title in titles.items() if part in device}
    if len(result.timings) > 1:  # interleaved with the baseline: the board's power and clocks are of both
        return row
    at_work = result.gpu[1:]
    if (power := _mean_power(result.gpu)) is not None:
        row["GPU Power (W)"] = power
    if clocks := [one.sm_mhz for one in at_work if one.HasField("sm_mhz")]:
        row["SM Clock Min (MHz)"], row["SM Clock Max (MHz)"] = min(clocks), max(clocks)
    return row


def _mean_power(readings: Sequence[GpuReading]) -> float | None:
    counted = [one for one in readings if one.HasField("energy_joules")]
    if len(counted) > 1:
        return float(
            (counted[-1].energy_joules - counted[0].energy_joules) / (counted[-1].seconds - counted[0].seconds)
        )
    watts = [one.power_watts for one in readings[1:] if one.HasField("power_watts")]
    return float(np.mean(watts)) if watts else None


def _done(ledger: Ledger, cell: Cell, role: str) -> StepRecord | None:
    record = _record(ledger, cell, role)
    return record if record is not None and record.done else None


def _record(ledger: Ledger, cell: Cell, role: str) -> StepRecord | None:
    return ledger.step(cell.steps[role]) if role in cell.steps else None


def _message(record: StepRecord, kind: Any) -> Any:
    assert record.result is not None
    return json_format.ParseDict(record.result, kind())


def count_unstable(table: Iterable[Row]) -> int:
    """How many cells have times that did not settle."""
    return sum(row.get("Stable") is False for row in table)


def count_outcomes(table: Iterable[Row]) -> Counter[str]:
    """How many cells ended how."""
    return Counter(row["Outcome"] for row in table)
