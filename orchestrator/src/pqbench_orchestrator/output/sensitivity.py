"""Layer sensitivity as a table (CSV) and a page of figures."""

from __future__ import annotations

import csv
import glob
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pqbench_orchestrator.config.manifest import Manifest
from pqbench_orchestrator.decide.sensitivity import Point
from pqbench_orchestrator.output.report.page import figures_page
from pqbench_orchestrator.results.tables import harmless
from pqbench_orchestrator.store.run_folder import EXPERIMENTS
from pqbench_wire.errors import InvalidInput, first_line

TITLES = {
    "model": "Model", "dataset": "Dataset", "layer": "Layer", "weights": "Weights", "technique": "Technique",
    "setting": "Setting", "noise": "Noise", "accuracy": "Accuracy", "untouched_accuracy": "Accuracy Untouched",
}  # fmt: skip
CSV, PAGE = "sensitivity.csv", "sensitivity.html"


def as_row(point: Point) -> dict[str, Any]:
    """A point's values by column title."""
    return {title: getattr(point, name) for name, title in TITLES.items()}


def write(points: Sequence[Point], folder: Path) -> Path:
    """Write sensitivity.csv and sensitivity.html into `folder`; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / CSV).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(TITLES.values()))
        writer.writeheader()
        writer.writerows(harmless(as_row(point)) for point in points)
    page = folder / PAGE
    page.write_text(figures_page("pqbench: layer sensitivity", _figures(points)), encoding="utf-8")
    return page


def folder_for(manifest: Manifest, data: Path) -> Path:
    """The path of a folder for a new analysis, with the time in its name; the folder is not made."""
    return data / EXPERIMENTS / f"{_prefix(manifest)}{time.strftime('%Y%m%d-%H%M%S')}"


def figures_of(experiments: Path, manifest: Manifest) -> list[dict[str, Any]]:
    """The figures of the newest analysis of a manifest of this name; empty where there is none.

    Raises InvalidInput where its CSV is damaged.
    """
    found = sorted(experiments.glob(f"{glob.escape(_prefix(manifest))}*/{CSV}"))
    if not found:
        return []
    try:
        with found[-1].open(newline="", encoding="utf-8") as file:
            return _figures([_point(row) for row in csv.DictReader(file)])
    except (csv.Error, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{found[-1]} is damaged: {first_line(error)}; remove it, or analyse again") from error


def _point(row: dict[str, str]) -> Point:
    texts = {name: row[title] for name, title in TITLES.items()}
    numbers = {name: float(texts[name]) for name in ("setting", "noise", "accuracy", "untouched_accuracy")}
    return Point(
        model=texts["model"], dataset=texts["dataset"], layer=texts["layer"], weights=int(float(texts["weights"])),
        technique=texts["technique"], **numbers,
    )  # fmt: skip


def _prefix(manifest: Manifest) -> str:
    return f"sensitivity-{manifest.name.replace(' ', '-')}-"


def _figures(points: Sequence[Point]) -> list[dict[str, Any]]:
    pairs = dict.fromkeys((point.model, point.dataset) for point in points)
    return [_figure(points, model, dataset) for model, dataset in pairs]


def _figure(points: Sequence[Point], model: str, dataset: str) -> dict[str, Any]:
    """Accuracy by layer as a Plotly figure with one line per setting: pruning above, quantization below."""
    own = [point for point in points if (point.model, point.dataset) == (model, dataset)]
    lines = _lines(own, "prune", "pruned", "{:.0%}", "y") + _lines(own, "quantize", "rounded", "{:g} bits", "y2")
    accuracy = "Top-1 on held-out training images (%)"
    layout = {
        "title": {"text": f"{model} on {dataset}: layer sensitivity"},
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


def _lines(points: Sequence[Point], technique: str, group: str, name: str, axis: str) -> list[dict[str, Any]]:
    lines = []
    for setting in dict.fromkeys(point.setting for point in points if point.technique == technique):
        own = [point for point in points if point.technique == technique and point.setting == setting]
        lines.append({
            "type": "scatter", "mode": "lines+markers", "name": name.format(setting), "yaxis": axis,
            "x": [point.layer for point in own], "y": [point.accuracy for point in own],
            "legendgroup": group, "legendgrouptitle": {"text": group},
        })  # fmt: skip
    return lines


def _heading(text: str, y: float) -> dict[str, Any]:
    return {"text": text, "x": 0.5, "y": y, "xref": "paper", "yref": "paper", "yanchor": "bottom", "showarrow": False}
