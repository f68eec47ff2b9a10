"""What the report shows of one cell on demand: some of its samples, its layers, and where it was measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from pqbench_orchestrator.results.cell import CellResult
from pqbench_orchestrator.store.ledger import StepResult
from pqbench_orchestrator.store.run_folder import RunFolder
from pqbench_orchestrator.store.samples import calls_of

MOST_SAMPLES = 200  # of a cell and role; samples.parquet has all of them
MOST_LAYERS = 400  # of a cell
Details = dict[str, dict[str, Any]]  # by the cell's key
QUANTILES_SQL = """
SELECT cell, quantile_cont(latency * 1000, [0.05, 0.25, 0.5, 0.75, 0.95]) FROM calls
WHERE role = 'variant' GROUP BY cell
"""
ROLES = ("profile", "measure", "build")
SAMPLES_SQL = """
WITH numbered AS (
  SELECT cell, role, start, latency, block,
    row_number() OVER one - 1 AS n, count(*) OVER (PARTITION BY cell, role) AS total
  FROM calls WINDOW one AS (PARTITION BY cell, role ORDER BY start)
)
SELECT cell, role, round(start, 4), round(latency * 1000, 6), block FROM numbered
WHERE n % (1 + (total - 1) // ?) = 0 ORDER BY cell, role, start
"""


def boxes(run: RunFolder) -> dict[str, list[float]]:
    """The 5, 25, 50, 75 and 95 % quantiles of each cell's latencies, in ms, by the cell's key."""
    with calls_of(run.path) as connection:
        return dict(connection.execute(QUANTILES_SQL).fetchall())


def details(run: RunFolder, cells: Iterable[CellResult]) -> Details:
    """The details of every cell that is ok."""
    thinned = _samples(run)
    with run.ledger() as ledger:
        return {
            cell.key: _detail(ledger.results_of(cell.key, ROLES), thinned.get(cell.key, {}))
            for cell in cells
            if cell.is_ok
        }


def _detail(results: dict[str, StepResult], samples: dict[str, list[list[float]]]) -> dict[str, Any]:
    profile, measured, build = (results.get(role, {}) for role in ROLES)
    return {
        "samples": samples,
        "tool": profile.get("tool", ""),
        "layers": [_layer(one) for one in profile.get("layers", [])[:MOST_LAYERS]],
        "settings": build.get("settings", {}) | (measured.get("timings") or [{}])[0].get("settings", {}),
        "measured": measured.get("settings", {}),
        "versions": build.get("versions", {}),
        "environment": measured.get("environment", {}),
        "load": measured.get("load", []),
        "gpu": measured.get("gpu", []),
        "server": (measured.get("timings") or [{}])[0].get("server", {}),
    }


def _layer(layer: dict[str, Any]) -> list[Any]:
    names = ("name", "type", "precision", "provider")
    return [*(layer.get(name, "") for name in names), round(layer.get("seconds", 0.0) * 1e3, 6)]


def _samples(run: RunFolder) -> dict[str, dict[str, list[list[float]]]]:
    """At most MOST_SAMPLES calls of each cell and role, evenly spaced: [start in s, latency in ms, block] each."""
    found: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    with calls_of(run.path) as connection:
        for cell, role, *sample in connection.execute(SAMPLES_SQL, [MOST_SAMPLES]).fetchall():
            found[cell][role].append(sample)
    return found
