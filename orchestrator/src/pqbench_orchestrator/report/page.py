"""Writes pages: Plotly, data, style and script inlined, so that it opens from file:// without network."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from pqbench_orchestrator.compare import COLUMNS, Change, cells
from pqbench_orchestrator.stats import pareto_front
from pqbench_orchestrator.tables import Row, count_outcomes

PLOTLY = "plotly-cartesian.min.js"  # plotly.js-cartesian-dist-min 4.1.1 as npm has it


def write_report(
    path: Path,
    run: str,
    table: list[Row],
    record: dict[str, Any],
    manifest: str,
    versions: Sequence[tuple[str, str, list[Change]]] = (),
) -> None:
    """Write the page for a run's table, environment record and manifest text; whole or not at all.

    `versions`: pairs of targets that are the same backend in two versions or on two devices, and what changed.
    """
    text = _template("page.html").render(
        run=run,
        outcomes=count_outcomes(table).most_common(),
        cells=len(table),
        record=record,
        manifest=manifest,
        versions=[(old, new, [cells(change) for change in changes]) for old, new, changes in versions],
        columns=COLUMNS,
        style=_part("page.css"),
        script=_part("page.js"),
        plotly=_part(PLOTLY),
        data=_for_script(_with_front(table)),
    )
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def figures_page(title: str, figures: list[dict[str, Any]]) -> str:
    """A page of Plotly figures ({"data": [...], "layout": {...}}), one below the other."""
    return _template("figures.html").render(title=title, plotly=_part(PLOTLY), figures=_for_script(figures))


def _template(name: str) -> Template:
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(_part(name))


def _part(name: str) -> str:
    return (resources.files("pqbench_orchestrator.report") / name).read_text(encoding="utf-8")


def _with_front(table: list[Row]) -> list[Row]:
    """The rows, each told whether no other of its model, dataset and batch size is both faster and more accurate."""
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index, row in enumerate(table):
        if row.get("Accuracy") is not None and row.get("Inference Time (ms)") is not None:
            groups[row["Model"], row["Dataset"], row["Batch Size"]].append(index)
    best: set[int] = set()
    for indices in groups.values():
        points = [(table[i]["Inference Time (ms)"], table[i]["Accuracy"]) for i in indices]
        best |= {indices[position] for position in pareto_front(points)}
    return [row | {"front": index in best} for index, row in enumerate(table)]


def _for_script(value: object) -> str:
    """JSON that is safe inside a <script> element, whatever names it holds."""
    text = json.dumps(value, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
