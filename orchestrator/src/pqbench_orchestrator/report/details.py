"""What the page shows of one cell on demand: some of its samples, its layers, where it was measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pqbench_orchestrator.ledger import FILE, Ledger
from pqbench_orchestrator.samples import calls_of
from pqbench_orchestrator.tables import Row

MOST_SAMPLES = 200  # of a cell and role; all of them are in samples.parquet
MOST_LAYERS = 400
Details = dict[str, dict[str, Any]]  # by cell
QUANTILES_SQL = """
SELECT cell, quantile_cont(latency * 1000, [0.05, 0.25, 0.5, 0.75, 0.95]) FROM calls
WHERE role = 'variant' GROUP BY cell
"""
SAMPLES_SQL = """
WITH numbered AS (
  SELECT cell, role, start, latency, block,
    row_number() OVER one - 1 AS n, count(*) OVER (PARTITION BY cell, role) AS total
  FROM calls WINDOW one AS (PARTITION BY cell, role ORDER BY start)
)
SELECT cell, role, round(start, 4), round(latency * 1000, 6), block FROM numbered
WHERE n % (1 + (total - 1) // ?) = 0 ORDER BY cell, role, start
"""


def boxes(run: Path) -> dict[str, list[float]]:
    """The quantiles of each cell's latencies in ms."""
    with calls_of(run) as connection:
        return dict(connection.execute(QUANTILES_SQL).fetchall())


def details(run: Path, rows: Iterable[Row]) -> Details:
    """Of every cell that was measured."""
    thinned = _samples(run)
    with Ledger(run / FILE, read_only=True) as ledger:
        return {
            row["Cell"]: _detail(ledger, ledger.steps_of(row["Cell"]), thinned.get(row["Cell"], {}))
            for row in rows
            if row["Outcome"] == "ok"
        }


def _detail(ledger: Ledger, steps: dict[str, str], samples: dict[str, list[list[float]]]) -> dict[str, Any]:
    profile, measured, build = (_result(ledger, steps.get(role)) for role in ("profile", "measure", "build"))
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


def _result(ledger: Ledger, key: str | None) -> dict[str, Any]:
    record = ledger.step(key) if key else None
    return (record.result or {}) if record is not None else {}


def _samples(run: Path) -> dict[str, dict[str, list[list[float]]]]:
    """At most MOST_SAMPLES calls of each cell and role, evenly over time: start s, latency ms, block."""
    found: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    with calls_of(run) as connection:
        for cell, role, *sample in connection.execute(SAMPLES_SQL, [MOST_SAMPLES]).fetchall():
            found[cell][role].append(sample)
    return found
