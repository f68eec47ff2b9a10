"""Results of cells from the ledger's records."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format

from pqbench_orchestrator.config.manifest import Target
from pqbench_orchestrator.config.recipes import Recipe
from pqbench_orchestrator.planning.plan import Cell, Plan
from pqbench_orchestrator.results.collect import collect
from pqbench_orchestrator.results.tables import as_row, from_row, write_csv
from pqbench_orchestrator.statistics import selection_half
from pqbench_orchestrator.store.ledger import Ledger
from pqbench_wire.blobs import BlobStore


def stored(store: BlobStore, array: np.ndarray) -> dict[str, Any]:
    return json_format.MessageToDict(store.put_array(array))


RECIPE = Recipe.model_validate({"steps": [{"quantize": "int8-static"}]})
TARGET = Target(name="t", backend="onnxruntime")


def row_of(ledger: Ledger, store: BlobStore, **changes: Any) -> dict[str, Any]:
    """The row of a cell whose steps are called after their roles, as far as the ledger has them."""
    roles = ("fidelity", "baseline fidelity", "predict", "score", "inputs")
    known: dict[str, Any] = {
        "key": "c", "model": "m", "dataset": "d", "recipe": RECIPE, "target": TARGET, "batch_size": 1, "concurrency": 1,
        "repeat": 0, "scenario": "single-stream", "steps": {role: role for role in roles},
    }  # fmt: skip
    (found,) = collect(Plan(steps=(), cells=(Cell(**(known | changes)),)), ledger, store)
    return as_row(found)


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
    said = f"outputs have a fidelity of {least - 0.1:.1f} dB, below the {least} dB usual for {precision}"
    assert row_of(ledger, store, precision=precision)["Warnings"] == said
    assert row_of(ledger, store, precision="SIMULATED")["Warnings"] is None
    ledger.close()


def test_a_row_that_was_stopped_early_counts_only_the_images_that_were_scored(store: BlobStore, tmp_path: Path) -> None:
    """Of each half of the split too: those that were scored are named by their indices."""
    labels, ledger = np.repeat(np.arange(10), 40), Ledger(Path(":memory:"))
    indices = np.arange(0, 400, 5)
    right = np.stack([indices % 10 == 0, np.ones(80, bool)])
    said = "accuracy too low after 80 of 400 images: 50.0 %"
    done(ledger, "inputs", labels=stored(store, labels))
    done(ledger, "predict", outputs=stored(store, np.zeros((80, 10))), indices=stored(store, indices), stopped=said)
    done(ledger, "score", stopped=said, metrics={"top1": 50.0}, images=80, classes=10, right=stored(store, right))
    row = row_of(ledger, store, selection="half", seed=3)
    assert (row["Stopped Early"], row["Scored Images"], row["Accuracy"]) == (said, 80, 50.0)
    chosen_ones = selection_half(labels, 3)[indices]
    assert row["Selection Images"] == chosen_ones.sum() and row["Report Images"] == (~chosen_ones).sum()
    assert row["Selection Accuracy"] == pytest.approx(100 * right[0][chosen_ones].mean())
    assert row["Report Change"] == pytest.approx(100 * right[0][~chosen_ones].mean() - 100)
    write_csv([from_row(row)], tmp_path / "r.csv", "a-run", "now")
    with (tmp_path / "r.csv").open() as file:
        assert [one["Stopped Early"] for one in csv.DictReader(file)] == [said]
    ledger.close()


@pytest.mark.parametrize(
    ("built_on", "shown"),
    [
        ("A GPU [sm_89] driver 580, tensorrt 10.16", "A GPU [sm_89] driver 580, tensorrt 10.16"),
        ("any machine for compute capability 8.9, tensorrt-rtx 1.7",
         "A GPU [sm_89] driver 580; built for any machine for compute capability 8.9, tensorrt-rtx 1.7"),
    ],
)  # fmt: skip
def test_the_device_is_the_one_that_ran_the_engine(store: BlobStore, built_on: str, shown: str) -> None:
    ledger, steps = Ledger(Path(":memory:")), {"build": "build", "measure": "measure"}
    done(ledger, "build", engine={"builtOn": built_on})
    assert row_of(ledger, store, steps=steps)["Device"] == built_on
    buffer = io.BytesIO()
    np.savez(buffer, latency_0=np.ones(4), block_0=np.zeros(4, np.int32), start_0=np.arange(4.0))
    samples = json_format.MessageToDict(store.put(buffer.getvalue()))
    done(ledger, "measure", environment={"gpu": "A GPU [sm_89] driver 580"}, samples=samples, timings=[{"median": 1.0}])
    assert row_of(ledger, store, steps=steps)["Device"] == shown


def test_a_step_that_only_began_says_that_the_run_was_interrupted(store: BlobStore) -> None:
    ledger, steps = Ledger(Path(":memory:")), {"profile": "profile", "artifact": "artifact"}
    for role in steps:
        ledger.record(key=role, kind=role, label="l", place="p", outcome="started")
    row = row_of(ledger, store, steps=steps)
    assert row["Why"] == "Its layers could not be timed: the run was interrupted"
    assert row["Artifact"] == "could not be tried: the run was interrupted"
