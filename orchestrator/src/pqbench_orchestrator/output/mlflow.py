"""Logs a run to MLflow: a parent run with the run's files as artifacts, and a child run for each cell.

It needs `pip install pqbench-orchestrator[mlflow]`.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pqbench_orchestrator.results.cell import CellResult
from pqbench_orchestrator.results.tables import as_row, count_outcomes, count_unstable, title_of, value_of
from pqbench_orchestrator.store.run_folder import CSV, ENVIRONMENT, MANIFEST, PARQUET, REPORT
from pqbench_wire.errors import Failed, InvalidInput, Unavailable, first_line

PARAMETERS = ("model", "dataset", "recipe", "target", "backend", "precision", "batch_size", "concurrency", "repeat",
              "pruner", "quantizer", "amount", "scenario", "engine.options", "engine.executed_precision")  # fmt: skip
TAGS = ("outcome", "reason", "timing.unstable_reason", "causes.breakdown.bound_by", "key")
ARTIFACTS = (REPORT, CSV, PARQUET, MANIFEST, ENVIRONMENT)
LONGEST = 500  # characters of a parameter or tag


def check_reachable(uri: str) -> None:
    """Raise Unavailable where MLflow is not installed, InvalidInput where the server does not answer as expected."""
    if find_spec("mlflow") is None:
        raise Unavailable("--mlflow needs MLflow: pip install 'pqbench-orchestrator[mlflow]'")
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    except (MlflowException, OSError) as error:
        raise InvalidInput(f"MLflow at {uri}: {first_line(error)}") from error


def log_run(uri: str, folder: Path, experiment: str, table: Sequence[CellResult], versions: dict[str, str]) -> str:
    """Log a finished run from its `folder`; returns the parent run's id. Raises Failed with MLflow's reason."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        where = found.experiment_id if found else client.create_experiment(experiment)
        parent = client.create_run(where, run_name=folder.name).info.run_id
        counts = {**count_outcomes(table), "unstable": count_unstable(table)}
        _log(client, parent, metrics={f"cells {k}": v for k, v in counts.items()}, parameters=versions)
        for name in ARTIFACTS:
            if (folder / name).is_file():
                client.log_artifact(parent, str(folder / name))
        for cell in table:
            name = f"{cell.recipe}, {cell.target}, batch {cell.batch_size}"
            child = client.create_run(where, run_name=name, tags={"mlflow.parentRunId": parent}).info.run_id
            _log(client, child, metrics=metrics_of(cell), parameters=_texts(cell, PARAMETERS), tags=_texts(cell, TAGS))
            client.set_terminated(child, "FAILED" if cell.outcome == "failed" else "FINISHED")
        client.set_terminated(parent)
    except (MlflowException, OSError) as error:
        raise Failed(f"MLflow at {uri}: {first_line(error)}") from error
    return str(parent)


def metrics_of(cell: CellResult) -> dict[str, float]:
    """The numbers of a cell, under names that MLflow accepts: "Inference Time (ms)" becomes inference_time_ms."""
    left_out = {title_of(path) for path in (*PARAMETERS, *TAGS)}
    return {
        _name(column): float(value)
        for column, value in as_row(cell).items()
        if column not in left_out and isinstance(value, (int, float)) and math.isfinite(value)
    }


def _log(
    client: Any, run: str, metrics: dict[str, float], parameters: dict[str, str], tags: dict[str, str] | None = None
) -> None:
    from mlflow.entities import Metric, Param, RunTag

    now = int(time.time() * 1000)
    client.log_batch(
        run,
        metrics=[Metric(_name(key), float(value), now, 0) for key, value in metrics.items()],
        params=[Param(_name(key), value[:LONGEST]) for key, value in parameters.items()],
        tags=[RunTag(_name(key), value[:LONGEST]) for key, value in (tags or {}).items()],
    )


def _texts(cell: CellResult, paths: Sequence[str]) -> dict[str, str]:
    values = {title_of(path): value_of(cell, path) for path in paths}
    return {name: str(value) for name, value in values.items() if value not in (None, "")}


def _name(column: str) -> str:
    text = column.lower().replace("%", "percent").replace("/", " per ")
    return re.sub(r"[^a-z0-9]+", "_", text).strip("_")
