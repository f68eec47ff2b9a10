"""`pqbench sensitivity`: what each layer minds, as a table and a page."""

from __future__ import annotations

import csv
import dataclasses
import glob
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench.compressor.v1 import compressor_pb2, compressor_pb2_grpc
from pqbench_orchestrator.dataset import Data, prepare
from pqbench_orchestrator.manifest import Manifest, Recipe
from pqbench_orchestrator.plan import unsuitable
from pqbench_orchestrator.report.page import figures_page
from pqbench_orchestrator.services import Services
from pqbench_orchestrator.survey import Survey
from pqbench_orchestrator.tables import harmless
from pqbench_wire.blobs import BlobStore
from pqbench_wire.client import blobs_in
from pqbench_wire.errors import InvalidInput, Refused
from pqbench_wire.jobs import first_line

AMOUNTS = (0.1, 0.3, 0.5, 0.7, 0.9)
BITS = (8, 6, 4, 3, 2)
COLUMNS = ("Model", "Dataset", "Layer", "Weights", "Technique", "Setting", "Noise", "Accuracy", "Accuracy Untouched")
Row = dict[str, Any]


def analyse(
    manifest: Manifest, facts: Survey, services: Services, store: BlobStore, datasets: dict[str, Data],
    images: int, say: Callable[[str], None],
) -> list[Row]:  # fmt: skip
    """The sensitivity of every layer of the manifest's models on its datasets. Raises Refused with the reason."""
    rows = []
    for model in manifest.models:
        known = facts.recipes[model.label, Recipe().identity]
        if known.refused or known.unavailable:
            raise Refused(f"model {model.label}: {known.refused or known.unavailable}")
        if model.is_file and model.model.endswith(".onnx"):
            raise Refused(f"model {model.label}: layers are analysed in PyTorch; an ONNX file has no module")
        preprocessing = json_format.ParseDict(known.preprocessing, Preprocessing())
        if known.inputs:
            takes = ", ".join(known.inputs)
            raise Refused(f"model {model.label}: sensitivity needs an image classifier; this takes {takes}")
        asked = dataclasses.replace(known, needs_training=(True,), needs_labels=(True,))
        for dataset in manifest.datasets:
            data = datasets[dataset.label]
            if reason := unsuitable(asked, known.classes, dataset.label, facts.datasets[dataset.label]):
                raise Refused(reason)
            say(f"preparing {dataset.label}")
            request = compressor_pb2.AnalyseRequest(
                model=json_format.ParseDict(facts.models[model.label], compressor_pb2.Model()),
                training=prepare(
                    data.split("train"), preprocessing, store, limit=dataset.train_images, seed=manifest.seed,
                    outputs=data.outputs,
                ),
                verification=prepare(data.split("test"), preprocessing, store, limit=2, seed=manifest.seed),
                amounts=AMOUNTS, bits=BITS, images=images, seed=manifest.seed,
            )  # fmt: skip
            result = _call(services, known.compressor, store, request, f"{model.label} on {dataset.label}", say)
            rows += [_row(model.label, dataset.label, point, result.accuracy) for point in result.layers]
    return rows


def _call(
    services: Services, compressor: str, store: BlobStore, request: Any, label: str, say: Callable[[str], None]
) -> Any:
    client = services.client(compressor)
    client.push(store, blobs_in(request))
    stub = compressor_pb2_grpc.CompressorServiceStub(client.channel)

    def tell(event: Any) -> None:
        if event.WhichOneof("event") == "progress":
            say(f"{label}: {event.progress.stage} {event.progress.message} {event.progress.fraction:.0%}")

    return client.result(stub.Analyse, request, tell)


def _row(model: str, dataset: str, point: Any, untouched: float) -> Row:
    found = (point.layer, point.weights, point.technique, point.setting, point.noise, point.accuracy)
    return dict(zip(COLUMNS, (model, dataset, *found, untouched), strict=True))


def write(rows: list[Row], folder: Path) -> Path:
    """Write sensitivity.csv and sensitivity.html; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "sensitivity.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(map(harmless, rows))
    page = folder / "sensitivity.html"
    page.write_text(figures_page("pqbench: sensitivity", _figures(rows)), encoding="utf-8")
    return page


def folder_for(manifest: Manifest, data: Path) -> Path:
    """A new folder for an analysis."""
    return data / "experiments" / f"{_prefix(manifest)}{time.strftime('%Y%m%d-%H%M%S')}"


def figures_of(experiments: Path, manifest: Manifest) -> list[dict[str, Any]]:
    """The figures of the newest analysis of a manifest of this name; none where there is none."""
    found = sorted(experiments.glob(f"{glob.escape(_prefix(manifest))}*/sensitivity.csv"))
    if not found:
        return []
    try:
        with found[-1].open(newline="", encoding="utf-8") as file:
            return _figures([{key: _number(value) for key, value in row.items()} for row in csv.DictReader(file)])
    except (csv.Error, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{found[-1]} is damaged: {first_line(error)}; remove it, or analyse again") from error


def _prefix(manifest: Manifest) -> str:
    return f"sensitivity-{manifest.name.replace(' ', '-')}-"


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _figures(rows: list[Row]) -> list[dict[str, Any]]:
    pairs = dict.fromkeys((row["Model"], row["Dataset"]) for row in rows)
    return [_figure(rows, model, dataset) for model, dataset in pairs]


def _figure(rows: list[Row], model: str, dataset: str) -> dict[str, Any]:
    """Accuracy against layer as a Plotly figure, one line a setting: pruning above, rounding below."""
    own = [row for row in rows if (row["Model"], row["Dataset"]) == (model, dataset)]
    lines = _lines(own, "prune", "pruned", "{:.0%}", "y") + _lines(own, "quantize", "rounded", "{:g} bits", "y2")
    accuracy = "Top-1 on held-out training images (%)"
    layout = {
        "title": {"text": f"{model} on {dataset}: what each layer minds"},
        "height": 820,
        "xaxis": {"anchor": "y2", "automargin": True},
        "yaxis": {"domain": [0.56, 1], "title": {"text": accuracy}},
        "yaxis2": {"domain": [0, 0.44], "title": {"text": accuracy}},
        "annotations": [
            _heading("Share of the layer's smallest weights zeroed", 1.0),
            _heading("Bits of the layer's weights and input", 0.44),
        ],
    }
    return {"data": lines, "layout": layout}


def _lines(rows: list[Row], technique: str, group: str, name: str, axis: str) -> list[dict[str, Any]]:
    made = []
    for setting in dict.fromkeys(row["Setting"] for row in rows if row["Technique"] == technique):
        points = [row for row in rows if row["Technique"] == technique and row["Setting"] == setting]
        made.append({
            "type": "scatter", "mode": "lines+markers", "name": name.format(setting), "yaxis": axis,
            "x": [row["Layer"] for row in points], "y": [row["Accuracy"] for row in points],
            "legendgroup": group, "legendgrouptitle": {"text": group},
        })  # fmt: skip
    return made


def _heading(text: str, y: float) -> dict[str, Any]:
    return {"text": text, "x": 0.5, "y": y, "xref": "paper", "yref": "paper", "yanchor": "bottom", "showarrow": False}
