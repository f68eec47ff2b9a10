"""The bundle's predict.py, which runs the model with its runtime's library alone, and its labels.txt."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench_orchestrator.results.cell import CellResult
from pqbench_orchestrator.store.ledger import StepResult
from pqbench_wire.shared.fidelity import NOISE_OF_DEFAULTS, least_of_artifact

ENGINE = "engine"  # a backend's code for predict.py that loads the engine in place of the artifact
PREDICT, LABELS = "predict.py", "labels.txt"
TEMPLATE = "predict.py.j2"


def files(
    cell: CellResult,
    results: Mapping[str, StepResult],
    record: Mapping[str, Any],
    preprocessing: Preprocessing,
    model: str,
    engine: str,
    outputs: np.ndarray,
) -> dict[str, str]:
    """predict.py and labels.txt by name; none for a model without one image input and one output [N, classes].

    `record`: the run's environment; `model` and `engine`: names of the bundle's files; `outputs`: those of the sample,
    [N, outputs]. Also none where the artifact gave wrong outputs in every way that was tried, and for backends that
    have no code for it.
    """
    scripts = record["targets"][cell.target].get("scripts", {})
    way = ENGINE if ENGINE in scripts else _way(results)
    script = scripts.get(way)
    is_classifier = not preprocessing.inputs and not results["predict"].get("flattened", False)
    if script is None or not is_classifier or "datasets" not in record:
        return {}
    std, mean = (np.asarray(one, np.float32) for one in (preprocessing.std, preprocessing.mean))
    text = _environment().from_string((resources.files(__package__) / TEMPLATE).read_text(encoding="utf-8")).render(
        model=engine if way == ENGINE else model, script=script.rstrip() + "\n", outputs=outputs.shape[1],
        height=preprocessing.height, width=preprocessing.width, channels=preprocessing.channels,
        resize=preprocessing.resize, interpolation=(preprocessing.interpolation or "bilinear").upper(),
        scale=(1 / (255 * std)).astype(np.float32).tolist(), shift=(-mean / std).astype(np.float32).tolist(),
        batch=cell.batch_size if way == ENGINE else record["models"][cell.model]["fixed_batch"],
        least=round(least_of_artifact(cell.fidelity.sqnr_db or NOISE_OF_DEFAULTS)),
    )  # fmt: skip
    return {PREDICT: text, LABELS: "\n".join(_labels(record["datasets"][cell.dataset], outputs.shape[1])) + "\n"}


def _environment() -> Environment:
    return Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)


def _way(results: Mapping[str, StepResult]) -> str | None:
    """The way of loading the artifact that gave right outputs, "" for the defaults; None where none did."""
    trials = results.get("artifact", {}).get("trials")
    if not trials:
        return ""
    return next((one.get("way", "") for one in trials if not one.get("problem")), None)


def _labels(dataset: Mapping[str, Any], count: int) -> list[str]:
    """A name for each of the model's outputs; those that the dataset does not name are numbered."""
    names = dataset["class_names"]
    places = dataset["outputs"] if dataset["outputs"] is not None else range(len(names))
    known = dict(zip(places, names, strict=False))
    return [str(known.get(index, f"output {index}")).replace("\n", " ") for index in range(count)]
