"""What the report shows of one cell on demand: its calls in bins, its layers, and where it was measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from pqbench_orchestrator.results.cell import CellResult
from pqbench_orchestrator.store.ledger import StepResult
from pqbench_orchestrator.store.run_folder import RunFolder
from pqbench_orchestrator.store.samples import calls_of

BINS = 60  # of a histogram
STRETCHES = 50  # of time, in a series
SHOWN = 0.995  # share of an engine's calls that its histogram shows; of the slowest, it has the number and the maximum
DIGITS = 4  # significant, of the figures of a series
MOST_LAYERS = 400  # of a cell
Details = dict[str, dict[str, Any]]  # by the cell's key
QUANTILES_SQL = """
SELECT cell, quantile_cont(latency * 1000, [0.05, 0.25, 0.5, 0.75, 0.95]) FROM calls
WHERE role = 'variant' GROUP BY cell
"""
ROLES = ("profile", "measure", "build")
HISTOGRAM_SQL = """
WITH bounds AS (
  SELECT cell, role, min(latency) AS low, quantile_cont(latency, $shown) AS high FROM calls GROUP BY cell, role
), binned AS (
  SELECT calls.*, low, high,
    CASE WHEN latency > high THEN NULL WHEN high = low THEN 0
      ELSE least(floor((latency - low) / (high - low) * $bins), $bins - 1)::INT END AS bin
  FROM calls JOIN bounds USING (cell, role)
)
SELECT cell, role, bin, count(*), any_value(low) * 1e3, any_value(high) * 1e3, max(latency) * 1e3
FROM binned GROUP BY cell, role, bin ORDER BY cell, role, bin
"""
SERIES_SQL = """
WITH spans AS (
  SELECT cell, role, min(start) AS first, max(start) AS last FROM calls GROUP BY cell, role
), placed AS (
  SELECT calls.*, CASE WHEN last = first THEN 0
    ELSE least(floor((start - first) / (last - first) * $stretches), $stretches - 1)::INT END AS stretch
  FROM calls JOIN spans USING (cell, role)
)
SELECT cell, role, min(start), min(latency) * 1e3, median(latency) * 1e3, max(latency) * 1e3
FROM placed GROUP BY cell, role, stretch ORDER BY cell, role, stretch
"""


def boxes(run: RunFolder) -> dict[str, list[float]]:
    """The 5, 25, 50, 75 and 95 % quantiles of each cell's latencies, in ms, by the cell's key."""
    with calls_of(run.path) as connection:
        return dict(connection.execute(QUANTILES_SQL).fetchall())


def details(run: RunFolder, cells: Iterable[CellResult]) -> Details:
    """The details of every cell that is ok."""
    samples = _samples(run)
    with run.ledger() as ledger:
        return {
            cell.key: _detail(ledger.results_of(cell.key, ROLES), samples.get(cell.key, {}))
            for cell in cells
            if cell.is_ok
        }


def _detail(results: dict[str, StepResult], samples: dict[str, dict[str, Any]]) -> dict[str, Any]:
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


def _samples(run: RunFolder) -> dict[str, dict[str, dict[str, Any]]]:
    """All calls of each cell and role, as a histogram and a series over time, in ms.

    "counts" are those of BINS bins from "low" to "high", "beyond" the number of slower calls, "slowest" the longest
    call. "series" has a list for each stretch of time in which calls began: start in s, and the least, median and
    longest latency.
    """
    found: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    with calls_of(run.path) as connection:
        bins = connection.execute(HISTOGRAM_SQL, {"shown": SHOWN, "bins": BINS}).fetchall()
        stretches = connection.execute(SERIES_SQL, {"stretches": STRETCHES}).fetchall()
    for cell, role, number, count, low, high, slowest in bins:
        empty = {"low": low, "high": high, "counts": [0] * BINS, "beyond": 0, "slowest": 0.0, "series": []}
        one = found[cell].setdefault(role, empty)
        one["slowest"] = max(one["slowest"], slowest)
        if number is None:
            one["beyond"] = count
        else:
            one["counts"][number] = count
    for cell, role, *stretch in stretches:
        found[cell][role]["series"].append([significant(figure) for figure in stretch])
    return found


def significant(figure: float) -> float:
    """A number with DIGITS significant digits, which is shorter in the page."""
    return float(f"{figure:.{DIGITS}g}")
