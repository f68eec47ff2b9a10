"""`pqbench sensitivity`: what each layer minds, as a table and a page."""

from __future__ import annotations

import csv
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from google.protobuf import json_format
from plotly.subplots import make_subplots

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench.compressor.v1 import compressor_pb2, compressor_pb2_grpc
from pqbench_orchestrator.dataset import Data, prepare
from pqbench_orchestrator.manifest import Manifest, Recipe
from pqbench_orchestrator.plan import unsuitable
from pqbench_orchestrator.services import Services
from pqbench_orchestrator.survey import Survey
from pqbench_wire.blobs import BlobStore
from pqbench_wire.client import blobs_in
from pqbench_wire.errors import Refused

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
            if reason := unsuitable(asked, dataset.label, facts.datasets[dataset.label]):
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
        writer.writerows(rows)
    figures = [
        _figure(rows, model, dataset) for model, dataset in dict.fromkeys((r["Model"], r["Dataset"]) for r in rows)
    ]
    parts = [figure.to_html(full_html=False, include_plotlyjs=index == 0) for index, figure in enumerate(figures)]
    page = folder / "sensitivity.html"
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>pqbench: sensitivity</title><body>'
    page.write_text(head + "".join(parts) + "</body></html>", encoding="utf-8")
    return page


def folder_for(manifest: Manifest, data: Path) -> Path:
    """A new folder for an analysis."""
    return data / "experiments" / f"sensitivity-{manifest.name.replace(' ', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"


def _figure(rows: list[Row], model: str, dataset: str) -> go.Figure:
    """Accuracy against layer, one line a setting: pruning above, rounding below."""
    own = [row for row in rows if (row["Model"], row["Dataset"]) == (model, dataset)]
    titles = ("Share of the layer's smallest weights zeroed", "Bits of the layer's weights and input")
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, subplot_titles=titles, vertical_spacing=0.08)
    for position, (technique, name) in enumerate((("prune", "{:.0%}"), ("quantize", "{:g} bits")), 1):
        for setting in dict.fromkeys(row["Setting"] for row in own if row["Technique"] == technique):
            line = [row for row in own if row["Technique"] == technique and row["Setting"] == setting]
            figure.add_scatter(
                x=[row["Layer"] for row in line], y=[row["Accuracy"] for row in line], name=name.format(setting),
                mode="lines+markers", row=position, col=1, legendgroup=technique,
                legendgrouptitle_text="pruned" if technique == "prune" else "rounded",
            )  # fmt: skip
        figure.update_yaxes(title_text="Top-1 on held-out training images (%)", row=position, col=1)
    figure.update_layout(title=f"{model} on {dataset}: what each layer minds", height=820, template="plotly_white")
    return figure
