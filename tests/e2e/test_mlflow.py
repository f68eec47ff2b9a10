"""--mlflow: what MLflow shows of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Pqbench


@pytest.mark.long
def test_a_run_has_a_parent_and_a_child_for_each_cell(
    pqbench: Pqbench, write_manifest: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a folder in place of a server
    uri = (tmp_path / "mlruns").as_uri()
    manifest = write_manifest(tmp_path, trained=True)
    done = pqbench("run", manifest, "--data", tmp_path / "data", "--mlflow", uri, "--json")
    assert done.code == 0, done.err
    cells = json.loads(done.out)["cells"]
    client = tracking.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("tiny")
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    assert len(parents) == 1 and len(children) == len(cells) == 2
    assert {file.path for file in client.list_artifacts(parents[0].info.run_id)} >= {"report.html", "results.csv"}
    by_recipe = {run.data.params["recipe"]: run for run in children}
    for cell in cells:
        logged = by_recipe[cell["recipe"]]
        assert logged.data.metrics["inference_time_ms"] == pytest.approx(cell["median_ms"])
        assert logged.data.metrics["accuracy"] == pytest.approx(cell["accuracy_top1_percent"])
        assert logged.data.tags["outcome"] == "ok" and logged.info.status == "FINISHED"


def test_an_address_that_does_not_work_is_one_line(
    pqbench: Pqbench, write_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    pytest.importorskip("mlflow.tracking")
    done = pqbench("run", write_manifest(tmp_path), "--data", tmp_path / "data", "--mlflow", "nonsense://x")
    assert done.code == 2 and "MLflow at nonsense://x" in done.err and "Traceback" not in done.err
    assert not (tmp_path / "data/experiments").exists(), "said before any work"
