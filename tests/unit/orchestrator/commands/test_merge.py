"""What is merged, and what is not, of runs that the tests wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pqbench_orchestrator.commands.merge import merge
from pqbench_orchestrator.store.ledger import FILE, Ledger
from pqbench_orchestrator.store.run_folder import ENVIRONMENT, MANIFEST, MERGED, RunFolder
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import InvalidInput

from ..cells import LEAST

TARGET = {"backend": "onnxruntime", "device": "a CPU", "built_for": "", "options": "{}", "versions": {"onnx": "1"}}
HOST = {"os": "Linux", "python": "3.11", "cores": 2, "memory_bytes": 2**30}
TEXT = (
    "{name: m, models: [{model: digits/m}], datasets: [{dataset: d}], recipes: [{name: r}, {name: q, steps: "
    "[{quantize: fp16}]}], targets: [{name: a, backend: onnxruntime}, {name: b, backend: onnxruntime}]}"
)


def shard(data: Path, target: str, recipes: str = "rq", text: str = TEXT, **changes: Any) -> RunFolder:
    """A run in a data folder of its own, with a cell for each recipe on one target."""
    folder = data / "experiments" / f"run-{target}"
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text(text)
    blob = BlobStore(data / "blobs").put(target.encode())
    record = {
        "run": folder.name, "started": "now", "host": HOST, "targets": {target: TARGET | changes, "c": {"versions": {}}},
        "models": {"m": {}}, "datasets": {"d": {}}, "compressors": {"compressor": {}}, "git_commit": None,
        "orchestrator": {}, "images": {"runtime": f"sha256:{target}"},
    }  # fmt: skip
    (folder / ENVIRONMENT).write_text(json.dumps(record))
    with Ledger(folder / FILE) as ledger:
        ledger.begin("m", 1)
        keys = {recipe: f"{recipe}{target}" for recipe in recipes}
        result = {"engine": {"blob": {"sha256": blob.sha256, "size": str(blob.size)}}}
        ledger.record(key=f"k{target}", kind="build", label="l", place="p", outcome="ok", result=result)
        ledger.record_plan({key: {"build": f"k{target}"} for key in keys.values()})
        rows = [(key, LEAST | {"Recipe": recipe, "Target": target, "Cell": key}) for recipe, key in keys.items()]
        ledger.record_cells([(key, "ok", "", row) for key, row in rows])
        ledger.record_samples("")
    return RunFolder(folder)


def test_cells_steps_and_blobs_of_all_are_there_in_the_manifests_order(tmp_path: Path) -> None:
    runs = [shard(tmp_path / "2", "b"), shard(tmp_path / "1", "a")]
    run, cells = merge(runs, tmp_path / "data")
    assert [(cell.recipe, cell.target) for cell in cells] == [("r", "a"), ("r", "b"), ("q", "a"), ("q", "b")]
    assert (run / MERGED).read_text() == "run-b\nrun-a\n" and run.is_merged
    assert run.environment()["images"] == {"run-b runtime": "sha256:b", "run-a runtime": "sha256:a"}
    assert set(run.environment()["targets"]) == {"a", "b"} and set(run.environment()["shards"]) == {"run-a", "run-b"}
    with run.ledger() as ledger:
        found = ledger.results_of("qb")["build"]["engine"]["blob"]
        assert (tmp_path / "data/blobs" / found["sha256"][:2] / found["sha256"]).read_bytes() == b"b"
    assert "run-b: Linux" in (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        ({"target": "a"}, "both have the cell ra: merge each shard once"),
        ({"target": "b", "recipes": "q"}, "1 of the manifest's 4 cells are in none of these runs"),
        ({"target": "b", "text": TEXT.replace("fp16", "bf16")}, "is of another manifest than"),
    ],
)
def test_what_does_not_belong_together_is_refused_and_leaves_nothing(
    tmp_path: Path, second: dict[str, Any], problem: str
) -> None:
    runs = [shard(tmp_path / "1", "a"), shard(tmp_path / "2", **second)]
    with pytest.raises(InvalidInput, match=problem):
        merge(runs, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_target_that_is_another_on_another_machine_is_refused(tmp_path: Path) -> None:
    runs = [shard(tmp_path / "1", "a", "r"), shard(tmp_path / "2", "a", "q", device="another CPU")]
    with pytest.raises(InvalidInput, match=r"target a is another in .*run-a than in .*run-a \(device differ\)"):
        merge(runs, tmp_path / "data")


def test_a_step_that_is_done_in_one_run_is_not_hidden_by_one_that_failed_in_another(tmp_path: Path) -> None:
    runs = [shard(tmp_path / "1", "a"), shard(tmp_path / "2", "b")]
    for run, outcome in zip(runs, ("ok", "failed"), strict=True):
        with run.ledger_to_write() as ledger:
            ledger.record(key="shared", kind="compress", label="l", place="p", outcome=outcome, result={})
    for order in (runs, runs[::-1]):
        merged, _ = merge(order, tmp_path / "data")
        with merged.ledger() as ledger:
            found = ledger.step("shared")
            assert found is not None and found.outcome == "ok"
