"""Ledger, statistics, tables, datasets and the page's data."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pytest
from google.protobuf import json_format
from PIL import Image

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench.runtime.v1.runtime_pb2 import DeviceTime, EngineTiming, GpuReading, MeasureResult, PredictResult
from pqbench_orchestrator.dataset import DATASETS, Data, Split, chosen, fit
from pqbench_orchestrator.execute import HANDLERS
from pqbench_orchestrator.ledger import CELLS, FILE, Ledger, StepCache
from pqbench_orchestrator.manifest import Recipe, Target
from pqbench_orchestrator.plan import Cell, Plan, Step
from pqbench_orchestrator.report.details import boxes
from pqbench_orchestrator.report.page import Report, write_report
from pqbench_orchestrator.samples import calls_of
from pqbench_orchestrator.stats import paired_speedup, pareto_front, selection_half
from pqbench_orchestrator.tables import THESIS_COLUMNS, device_columns, recorded, rows, write_csv, write_parquet
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import Failed, InvalidInput

STEP = {"key": "k", "kind": "build", "label": "l", "place": "p"}


def test_the_ledger_only_grows_and_the_newest_row_counts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    ledger.record(**STEP, outcome="started")
    ledger.record(**STEP, outcome="failed", reason="why")
    record = ledger.step("k")
    assert record is not None and not record.done and record.reason == "why"
    ledger.record(**STEP, outcome="ok", result={"a": 1}, seconds=2.0)
    ledger.close()
    again = Ledger(tmp_path / "l.sqlite")
    record = again.step("k")
    assert record is not None and record.done and record.result == {"a": 1}
    assert again._db.rows("SELECT count(*) FROM steps") == [(3,)]
    assert again.step("other") is None
    again.close()


def test_cells_keep_their_order_and_show_their_newest_row(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    ledger.record_cells([("a", "failed", "x", {"n": 1}), ("b", "ok", "", {"n": 2})])
    ledger.record_cells([("a", "ok", "", {"n": 3})])
    assert sorted(one["n"] for one in ledger.cells()) == [2, 3], "a ledger of an older version names no plan"
    ledger.describe({CELLS: '["a", "new", "b"]'})
    assert ledger.cells() == [{"n": 3}, {"n": 2}]
    ledger.describe({CELLS: '["b"]'})
    assert ledger.cells() == [{"n": 2}], "what the newest plan has not is not shown"
    ledger.close()


def test_the_cache_is_shared_between_runs(tmp_path: Path) -> None:
    first, second = StepCache(tmp_path / "c.sqlite"), StepCache(tmp_path / "c.sqlite")
    first.put("k", "build", {"a": [1]}, 1.0)
    assert second.get("k") == {"a": [1]} and second.get("other") is None
    first.close()
    second.close()


def test_the_paired_speedup_ignores_a_drift_that_meets_both() -> None:
    rng = np.random.default_rng(0)
    block = np.repeat(np.arange(8), 50)
    drift = 1 + 0.2 * block
    baseline = 2.0 * drift * rng.normal(1, 0.01, 400)
    variant = 1.0 * drift * rng.normal(1, 0.01, 400)
    ratio = paired_speedup(variant, block, baseline, block)
    assert ratio.value == pytest.approx(2, rel=0.01) and ratio.low < 2 < ratio.high
    assert ratio.high - ratio.low < 0.05


def test_the_speedups_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    block, hits = np.repeat(np.arange(6), 30), 0
    for _ in range(1000):
        a, b = (np.exp(rng.normal(0, 0.05, 6))[block] * np.exp(rng.normal(0, 0.01, 180)) for _ in range(2))
        ratio = paired_speedup(a, block, 1.5 * b, block)
        hits += ratio.low <= 1.5 <= ratio.high
    assert 0.93 <= hits / 1000 <= 0.97


def test_one_block_gives_no_interval() -> None:
    ones = np.ones(5)
    ratio = paired_speedup(ones, np.zeros(5, int), 2 * ones, np.zeros(5, int))
    assert ratio.value == 2 and ratio.low == 0 and ratio.high == np.inf


def test_pareto_front() -> None:
    assert pareto_front([(1, 90), (2, 95), (3, 94), (1.5, 90), (4, 96), (1, 80)]) == [0, 1, 4]
    assert pareto_front([]) == []


def test_the_table_begins_with_the_thesis_columns(tmp_path: Path) -> None:
    table = [
        {**dict.fromkeys(THESIS_COLUMNS), "Model": "m", "Amount": "-", "Outcome": "refused", "Reason": "a, b"},
        {
            **dict.fromkeys(THESIS_COLUMNS),
            "Model": "m",
            "Amount": 0.5,
            "Accuracy": 91.5,
            "Outcome": "ok",
            "Speedup": 2.0,
        },
    ]
    write_csv(table, tmp_path / "r.csv")
    with (tmp_path / "r.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0])[:11] == THESIS_COLUMNS
    assert rows[0]["Reason"] == "a, b" and rows[1]["Accuracy"] == "91.5" and rows[0]["Accuracy"] == ""
    write_parquet(table, tmp_path / "r.parquet")
    found = duckdb.read_parquet(str(tmp_path / "r.parquet"))
    back = [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]
    assert back[1]["Accuracy"] == 91.5 and back[0]["Accuracy"] is None and back[1]["Amount"] == "0.5"


def test_names_cannot_break_the_page(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    row = {
        **dict.fromkeys(THESIS_COLUMNS),
        "Model": evil,
        "Outcome": "ok",
        "Dataset": "d",
        "Batch Size": 1,
        "Cell": "c",
    }
    record = {"targets": {evil: {"device": evil, "versions": {}, "options": "{}"}}, "compressors": {evil: {}}, "started": "now",
              "host": {"os": "o", "python": "3", "cores": 2, "memory_bytes": 2**30}}  # fmt: skip
    report = Report(run=evil, table=[row], record=record, manifest=evil, recommendations=[[evil, evil]],
                    details={"c": {"samples": {}, "tool": evil}}, sensitivity=[{"data": [{"name": evil}]}])  # fmt: skip
    write_report(tmp_path / "r.html", report)
    text = (tmp_path / "r.html").read_text()
    assert "alert(1)</script>" not in text
    data = json.loads(text.split('id="data" type="application/json">')[1].split("</script>")[0])
    assert data["rows"][0][data["columns"].index("Model")] == evil


def test_images_are_resized_and_cropped_like_torchvision() -> None:
    transforms = pytest.importorskip("torchvision.transforms.v2")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 401, 3), dtype=np.uint8))
    wanted = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])(image)
    ours = fit(image, Preprocessing(height=224, width=224, channels=3, resize=256, interpolation="bilinear"))
    np.testing.assert_array_equal(ours, np.asarray(wanted))


def test_a_limit_is_a_seeded_choice_in_order() -> None:
    assert chosen(5, None, 0).tolist() == [0, 1, 2, 3, 4]
    first = chosen(1000, 10, 1)
    assert sorted(first) == first.tolist() and first.max() > 500
    assert first.tolist() == chosen(1000, 10, 1).tolist() != chosen(1000, 10, 2).tolist()


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"test": "/no/where"}, "is not a folder"),
        ({}, "test: field required"),
        ({"test": "/tmp", "outputs": {"a": "x"}}, "outputs.a"),
    ],
)
def test_a_wrong_folder_is_one_clear_line(config: dict[str, object], problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        DATASETS.load("folder").load(DATASETS.configure("folder", json.dumps(config)), Path())


def test_a_folder_with_a_broken_image_says_which(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "broken.jpg").write_bytes(b"not a picture")
    data = DATASETS.load("folder").load(DATASETS.configure("folder", json.dumps({"test": str(tmp_path)})), Path())
    with pytest.raises(InvalidInput, match="broken.jpg cannot be decoded"):
        data.split("test").open(0)


def test_device_times_are_columns_where_there_is_a_gpu() -> None:
    assert device_columns(MeasureResult(timings=[EngineTiming(median=1)])) == {}
    timing = EngineTiming(device={"compute": DeviceTime(median=0.002), "h2d": DeviceTime(median=0.0005)})
    at_rest, at_work = GpuReading(power_watts=50, sm_mhz=1500), GpuReading(power_watts=70, sm_mhz=1200)
    readings = [at_rest, at_work, GpuReading(sm_mhz=1300)]
    assert device_columns(MeasureResult(timings=[timing], gpu=readings)) == {
        "Compute (ms)": 2.0, "H2D (ms)": 0.5, "GPU Power (W)": 70.0, "SM Clock Min (MHz)": 1200,
        "SM Clock Max (MHz)": 1300}  # fmt: skip
    counted = [GpuReading(power_watts=50, energy_joules=100, seconds=1), GpuReading(energy_joules=220, seconds=3)]
    assert device_columns(MeasureResult(timings=[timing], gpu=counted))["GPU Power (W)"] == 60.0


def test_a_board_that_two_engines_share_has_no_power_of_one() -> None:
    """Interleaved with the baseline, watts and clocks are of both; the times of the device are the engine's own."""
    mine, other = (EngineTiming(device={"compute": DeviceTime(median=seconds)}) for seconds in (0.002, 0.005))
    readings = [GpuReading(power_watts=w, sm_mhz=1500, energy_joules=w, seconds=w) for w in (50, 70, 90)]
    assert device_columns(MeasureResult(timings=[mine, other], gpu=readings)) == {"Compute (ms)": 2.0}
    alone = device_columns(MeasureResult(timings=[mine], gpu=readings))
    assert alone["GPU Power (W)"] == 1.0 and alone["SM Clock Max (MHz)"] == 1500


@pytest.mark.parametrize("columns", ["0 AS build, ", ""])
def test_samples_are_read_with_and_without_replicates(columns: str, tmp_path: Path) -> None:
    Ledger(tmp_path / FILE).close()
    with calls_of(tmp_path) as nothing:
        assert nothing.execute("SELECT * FROM calls").fetchall() == []
    said = f"SELECT 'c' AS cell, {columns}'variant' AS role, 0 AS block, 0.0 AS start, 0.5 AS latency"
    more = f" UNION ALL {said.replace('0 AS build', '1 AS build').replace('0.5', '9.0')}" if columns else ""
    duckdb.sql(said + more).write_parquet(str(tmp_path / "samples.parquet"))
    with calls_of(tmp_path) as connection:
        assert connection.execute("SELECT latency FROM calls").fetchall() == [(0.5,)], "of the first engine only"
    assert boxes(tmp_path) == {"c": [500.0] * 5}


def test_rows_of_older_versions_are_whole(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    old = {"Pruner": "-", "Quantizer": "int8-static"}
    ledger.record_cells(
        [("a", "ok", "", old), ("b", "ok", "", old | {"Concurrency": 2, "Technique": "int8(images=8)"})]
    )
    first, second = sorted(recorded(ledger), key=lambda row: row["Concurrency"])
    assert first == old | {
        "Concurrency": 1, "Scenario": "single-stream", "Baseline": False, "Technique": "int8-static"
    }  # fmt: skip
    assert (second["Concurrency"], second["Technique"]) == (2, "int8(images=8)")


def execution(store: BlobStore, **changes: Any) -> Any:
    """What the handlers of steps need of an execution."""
    return SimpleNamespace(store=store, **changes)


def stored(store: BlobStore, array: np.ndarray) -> dict[str, Any]:
    return json_format.MessageToDict(store.put_array(array))


def step_of(kind: str, **spec: Any) -> Step:
    return Step(key="k", kind=kind, label="l", place="p", spec=spec, needs={}, stage=(0,))


@pytest.mark.parametrize(
    ("executed", "least"),
    [(["FP32"], 60), (["TF32"], 30), (["FP16"], 30), (["BF16"], 15), (["INT8"], 3), ([], 60), (["FP32", "TF32"], 30),
     (["FP32", "BF16", "FP16"], 15)],
)  # fmt: skip
def test_a_baseline_engine_is_held_to_the_least_of_what_it_executes(
    store: BlobStore, executed: list[str], least: float
) -> None:
    reference = np.random.default_rng(0).standard_normal((8, 10))

    def verified(decibels: float, baseline: bool = True) -> float:
        outputs = store.put_array(reference * (1 + 10 ** (-decibels / 20)))
        ran = execution(store, call=lambda *_: PredictResult(outputs=outputs))
        engine = {"engine": {}, "executed": dict.fromkeys(executed, 3)}
        needs = {"build": engine, "inputs": {}, "variant": {"reference": stored(store, reference)}}
        return float(HANDLERS["verify"](ran, step_of("verify", baseline=baseline), needs)["sqnr_db"])

    assert verified(least + 0.1) == pytest.approx(least + 0.1)
    wanted = rf"outputs are {least - 0.1:.1f} dB from the model's own on 8 images; its precision reaches {least} dB"
    with pytest.raises(Failed, match=wanted):
        verified(least - 0.1)
    assert verified(least - 0.1, baseline=False) == pytest.approx(least - 0.1), "a variant's is a figure"


RECIPE = Recipe.model_validate({"steps": [{"quantize": "int8-static"}]})
TARGET = Target(name="t", backend="onnxruntime")


def row_of(ledger: Ledger, store: BlobStore, **changes: Any) -> dict[str, Any]:
    """The row of a cell whose steps are called after their roles, as far as the ledger has them."""
    roles = ("fidelity", "baseline fidelity", "predict", "score", "inputs")
    known: dict[str, Any] = {
        "key": "c", "model": "m", "dataset": "d", "recipe": RECIPE, "target": TARGET, "batch_size": 1, "concurrency": 1,
        "repeat": 0, "scenario": "single-stream", "steps": {role: role for role in roles},
    }  # fmt: skip
    (row,) = rows(Plan(steps=(), cells=(Cell(**(known | changes)),)), ledger, store)
    return row


def done(ledger: Ledger, role: str, **result: Any) -> None:
    ledger.record(key=role, kind=role, label="l", place="p", outcome="ok", result=result)


@pytest.mark.parametrize(
    ("precision", "least"),
    [("FP32", 60), ("FP16", 30), ("BF16", 15), ("INT8", 10), ("INT8_DYNAMIC", 10), ("FP8", 10), ("INT4", 5)],
)
def test_a_variant_below_what_is_usual_for_its_precision_has_a_warning(
    store: BlobStore, precision: str, least: float
) -> None:
    ledger = Ledger(Path(":memory:"))
    done(ledger, "fidelity", sqnr_db=least + 0.1)
    row = row_of(ledger, store, precision=precision)
    assert row["Fidelity (dB)"] == least + 0.1 and row["Warnings"] is None
    done(ledger, "fidelity", sqnr_db=least - 0.1)
    said = f"outputs are {least - 0.1:.1f} dB from the model's own, {least} are usual for {precision}"
    assert row_of(ledger, store, precision=precision)["Warnings"] == said
    assert row_of(ledger, store, precision="SIMULATED")["Warnings"] is None
    ledger.close()


def test_a_row_that_was_stopped_early_counts_only_the_images_that_were_scored(store: BlobStore, tmp_path: Path) -> None:
    """Of each half of the split too: those that were scored are named by their indices."""
    labels, ledger = np.repeat(np.arange(10), 40), Ledger(Path(":memory:"))
    indices = np.arange(0, 400, 5)
    right = np.stack([indices % 10 == 0, np.ones(80, bool)])
    said = "hopeless after 80 of 400 images: 50.0 % right"
    done(ledger, "inputs", labels=stored(store, labels))
    done(ledger, "predict", outputs=stored(store, np.zeros((80, 10))), indices=stored(store, indices), stopped=said)
    done(ledger, "score", stopped=said, metrics={"top1": 50.0}, images=80, classes=10, right=stored(store, right))
    row = row_of(ledger, store, selection="half", seed=3)
    assert (row["Stopped Early"], row["Scored Images"], row["Accuracy"]) == (said, 80, 50.0)
    chosen_ones = selection_half(labels, 3)[indices]
    assert row["Selection Images"] == chosen_ones.sum() and row["Report Images"] == (~chosen_ones).sum()
    assert row["Selection Accuracy"] == pytest.approx(100 * right[0][chosen_ones].mean())
    assert row["Report Change"] == pytest.approx(100 * right[0][~chosen_ones].mean() - 100)
    write_csv([row], tmp_path / "r.csv")
    with (tmp_path / "r.csv").open() as file:
        assert [one["Stopped Early"] for one in csv.DictReader(file)] == [said]
    ledger.close()


def scored(store: BlobStore, outputs: int, mapped: tuple[int, ...] | None = None) -> dict[str, Any]:
    """Six images of three classes, of which the model is sure of one output each; the baseline has the same."""
    sure = np.array([0, 5, 2, 0, 5, 2])
    labels = np.array([0, 1, 2, 2, 1, 0])
    values = np.zeros((6, outputs), np.float32)
    values[np.arange(6), np.minimum(sure, outputs - 1)] = 1
    split = Split(open=lambda _: Image.new("L", (1, 1)), labels=labels, fingerprint="x")
    data = Data(splits={"test": split}, classes=("a", "b", "c"), outputs=mapped)
    predicted = {"outputs": stored(store, values)}
    needs = {"predict": predicted, "baseline": predicted, "inputs": {"labels": stored(store, labels)}}
    step = step_of("score", dataset="d", metrics=["top1"], split="test")
    return HANDLERS["score"](execution(store, datasets={"d": data}), step, needs)


def test_a_model_of_more_outputs_than_classes_is_scored_on_all_or_on_those_of_its_map(store: BlobStore) -> None:
    everything = scored(store, 10)
    assert everything["metrics"]["top1"] == pytest.approx(100 * 2 / 6) and everything["classes"] == 10
    ours = scored(store, 10, mapped=(0, 5, 2))
    assert ours["metrics"]["top1"] == pytest.approx(100 * 4 / 6) and ours["classes"] == 3
    assert store.array_of(ours["right"])[0].tolist() == [True, True, True, False, True, False]


@pytest.mark.parametrize(
    ("mapped", "problem"),
    [(None, "dataset d has label 2; the model has 2 outputs"), ((0, 1, 7), "d scores output 7; the model has 2")],
)
def test_a_model_of_fewer_outputs_than_labels_is_not_scored(
    store: BlobStore, mapped: tuple[int, ...] | None, problem: str
) -> None:
    with pytest.raises(Failed, match=problem):
        scored(store, 2, mapped)
