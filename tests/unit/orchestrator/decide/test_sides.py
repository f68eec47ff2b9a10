"""What is compared: the sessions of a run's cells."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import json_format

from pqbench.runtime.v1.runtime_pb2 import BuildEngineResult, Layer
from pqbench_orchestrator.decide.sides import OLD_TIMED_OPTIONS, side, side_of
from pqbench_orchestrator.store.ledger import FILE, Ledger
from pqbench_orchestrator.store.run_folder import ENVIRONMENT, RunFolder
from pqbench_orchestrator.store.samples import Measured, write_samples
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import InvalidInput

from ..cells import LEAST

ROWS = [LEAST | {"Cell": key, "Target": target, "Repeat": repeat, "Inference Time (ms)": 1.0}
        for key, target, repeat in (("a0", "a", 0), ("a1", "a", 1), ("b0", "b", 0))]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of two targets, one of them with two repeats."""
    folder = RunFolder(tmp_path / "data/experiments/run")
    folder.path.mkdir(parents=True)
    store = BlobStore(folder.data / "blobs")
    layers = [Layer(name="c", precision="INT8", compute=True), Layer(name="q", precision="FP32")]
    build = json_format.MessageToDict(BuildEngineResult(layers=layers))
    right = json_format.MessageToDict(store.put_array(np.ones((2, 5), bool)))
    with Ledger(folder / FILE) as ledger:
        ledger.record_plan({row["Cell"]: {"build": "build", "score": "score"} for row in ROWS})
        ledger.record(key="build", kind="build", label="l", place="p", outcome="ok", result=build)
        ledger.record(key="score", kind="score", label="l", place="p", outcome="ok", result={"right": right})
        ledger.record_cells([(row["Cell"], "ok", "", row) for row in ROWS])
        calls = {"latency_0": np.array([1.0, 3.0, 2.0]), "block_0": np.array([0, 0, 1]), "start_0": np.arange(3.0)}
        write_samples([Measured(cell="a0", build=0, arrays=calls)], folder.path, ledger)
    return folder


def test_repeats_are_sessions_of_one_cell(run: RunFolder) -> None:
    found = side_of(run)
    assert {(key.target, len(sessions)) for key, sessions in found.sessions.items()} == {("a", 2), ("b", 1)}
    first = next(one for sessions in found.sessions.values() for one in sessions if one.cell.key == "a0")
    assert first.blocks == [2.0, 2.0] and first.layers == {"c": "INT8"} and first.right is not None


def test_one_target_is_named_behind_a_colon(run: RunFolder) -> None:
    found = side(f"{run}:a", Path())
    assert found.is_of_target and [key.target for key in found.sessions] == [None] and found.name == f"{run}:a"
    with pytest.raises(InvalidInput, match="has no target 'c', only a, b"):
        side(f"{run}:c", Path())


def test_the_options_that_change_what_is_timed_are_those_that_the_run_names(run: RunFolder) -> None:
    assert side_of(run).timed_options == frozenset(OLD_TIMED_OPTIONS), "runs of old versions named none"
    target = {"versions": {}, "timed_options": ["mode"]}
    (run / ENVIRONMENT).write_text(json.dumps({"started": "now", "targets": {"a": target}}))
    assert side_of(run).timed_options == {"mode"}


def test_a_blob_that_is_gone_is_an_accuracy_that_is_not_compared(run: RunFolder) -> None:
    for path in (run.data / "blobs").glob("*/*"):
        path.unlink()
    assert all(one.right is None for sessions in side_of(run).sessions.values() for one in sessions)
