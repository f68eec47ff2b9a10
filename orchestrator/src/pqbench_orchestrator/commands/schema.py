"""`pqbench schema`: JSON schemas of what users write and what they read."""

from __future__ import annotations

from typing import Any

from pqbench_orchestrator.config.manifest import Manifest
from pqbench_orchestrator.results.columns import COLUMNS, METRIC, RUN, Column

KINDS = ("manifest", "results")
DIALECT = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
TYPES: dict[type, list[str]] = {
    str: ["string"], int: ["integer"], float: ["number"], bool: ["boolean"],
}  # fmt: skip


def schema(kind: str) -> dict[str, Any]:
    """The JSON schema of one of KINDS: a manifest, or a record of results as JSON and Parquet have it."""
    return DIALECT | (Manifest.model_json_schema() if kind == "manifest" else _results())


def markdown() -> str:
    """The columns of results as a page in Markdown."""
    lines = [
        "# Columns of results",
        "",
        "`results.csv` has the titles; `results.parquet`, and everything that is printed as JSON, the names. The same",
        "as a JSON schema: `pqbench schema results`. 1 MB is 10^6 bytes. Where a figure is not known, the CSV is",
        "empty and JSON has null. JSON and Parquet begin with `run` and `started`, the CSV ends with `Run` and",
        f"`Started`; metrics are called `{METRIC}…` after their titles.",
        "",
        "| name | title | type | unit | meaning |",
        "| --- | --- | --- | --- | --- |",
        *(f"| `{one.name}` | {one.title} | {one.kind.__name__} | {one.unit} | {one.meaning} |" for one in COLUMNS),
    ]
    return "\n".join(lines) + "\n"


def _results() -> dict[str, Any]:
    about = {name: {"type": "string", "description": meaning} for name, meaning in RUN.items()}
    properties = about | {column.name: _column(column) for column in COLUMNS}
    return {
        "title": "Result",
        "description": "One cell's results. A figure that is not known is null.",
        "type": "object",
        "properties": properties,
        "patternProperties": {f"^{METRIC}": {"type": ["number", "null"], "description": "a metric plug-in's figure"}},
        "required": list(properties),
        "additionalProperties": False,
    }


def _column(column: Column) -> dict[str, Any]:
    types = ["number", "string"] if column.path == "amount" else TYPES[column.kind]
    unit = {"unit": column.unit} if column.unit else {}
    return {"title": column.title, "type": [*types, "null"], "description": column.meaning} | unit
