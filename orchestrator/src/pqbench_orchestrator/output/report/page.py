"""Writes HTML pages with Plotly, data, styles and scripts inlined, so that they open from file:// without network."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from pqbench_orchestrator.decide.compare import Change
from pqbench_orchestrator.output.comparison import COLUMNS, caption, common_notes, texts
from pqbench_orchestrator.output.report.card import Card
from pqbench_orchestrator.output.report.details import Details
from pqbench_orchestrator.results.cell import CellResult
from pqbench_orchestrator.results.tables import Row, as_row, count_outcomes, count_reasons, count_unstable, title_of

PLOTLY = "plotly-cartesian.min.js"  # the npm package plotly.js-cartesian-dist-min 4.1.1, unchanged
SCRIPTS = ("palette.js", "data.js", "figures.js", "table.js", "cell.js", "address.js", "page.js")  # in this order
CHUNK = 25  # cells whose details are compressed, and unpacked by the page, together
DIGITS = 6  # significant digits of numbers in the page
# Columns that only the page of a cell shows.
LEFT_OUT = tuple(map(title_of, ("engine.options", "engine.settings", "engine.versions", "causes.text")))


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that a run's page shows."""

    run: str
    folder: str = ""  # the run's, for commands
    table: Sequence[CellResult]
    record: dict[str, Any]  # the environment record
    manifest: str  # as YAML
    details: Details = field(default_factory=dict)
    boxes: dict[str, list[float]] = field(default_factory=dict)  # cell -> quantiles of its latency in ms
    cards: Sequence[Card] = ()  # what is recommended
    versions: Sequence[tuple[str, str, list[Change]]] = ()  # pairs of targets as in `versions_of_a_run`
    sensitivity: Sequence[dict[str, Any]] = ()  # Plotly figures
    trials: Sequence[dict[str, str]] = ()  # of a search, each by column title


def write_report(path: Path, report: Report) -> None:
    """Write a run's page; the file appears whole or not at all."""
    rows = {cell.key: as_row(cell) for cell in report.table}
    order = [key for key in rows if key in report.details]
    extra = {key: {name: row.get(name) for name in LEFT_OUT} for key, row in rows.items()}
    chunks = [
        {cell: report.details[cell] | {"texts": extra[cell]} for cell in order[start : start + CHUNK]}
        for start in range(0, len(order), CHUNK)
    ]
    text = _template("page.html").render(
        run=report.run,
        outcomes=count_outcomes(report.table).most_common(),
        cells=len(report.table),
        reasons=count_reasons(report.table).items(),
        only_built=any(cell.is_built_only for cell in report.table),
        unstable=count_unstable(report.table),
        trials=report.trials,
        record=report.record,
        manifest=report.manifest,
        cards=report.cards,
        folder=_for_script(report.folder or report.run),
        recommended=_for_script([card.key for card in report.cards if card.key]),
        versions=[(*names, _rows(changes), caption(changes)) for *names, changes in report.versions],
        columns=COLUMNS,
        style=_part("page.css"),
        script="\n".join(_part(name) for name in SCRIPTS),
        plotly=_part(PLOTLY),
        data=_for_script(_columnar([row | {"box": report.boxes.get(key)} for key, row in rows.items()])),
        chunk_of=_for_script({cell: index // CHUNK for index, cell in enumerate(order)}),
        chunks=[_packed(chunk) for chunk in chunks],
        sensitivity=_for_script(list(report.sensitivity)),
        has_sensitivity=bool(report.sensitivity),
    )
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def figures_page(title: str, figures: list[dict[str, Any]]) -> str:
    """A page of Plotly figures ({"data": [...], "layout": {...}}), one below the other."""
    return _template("figures.html").render(title=title, plotly=_part(PLOTLY), figures=_for_script(figures))


def _rows(changes: Sequence[Change]) -> list[list[str]]:
    """What changed between two targets, without the notes that stand below the table."""
    said = common_notes(changes)
    return [texts(change, said) for change in changes]


def _columnar(table: list[Row]) -> dict[str, Any]:
    """The column names once, and the rows as lists of values: a third of the size of one mapping per row."""
    names = list(dict.fromkeys(name for row in table for name in row if name not in LEFT_OUT))
    return {"columns": names, "rows": [[_short(row.get(name)) for name in names] for row in table]}


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    return [_short(one) for one in value] if isinstance(value, list) else value


def _packed(value: object) -> str:
    """A value as compressed text, which the page unpacks when it is needed."""
    return base64.b64encode(zlib.compress(json.dumps(value, allow_nan=False).encode(), 9)).decode()


def _template(name: str) -> Template:
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(_part(name))


def _part(name: str) -> str:
    return (resources.files("pqbench_orchestrator.output.report") / name).read_text(encoding="utf-8")


def _for_script(value: object) -> str:
    """A value as JSON that is safe inside a <script> element, whatever text it holds."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
