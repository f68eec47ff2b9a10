"""What `pqbench serve` tells Prometheus: cells by outcome, steps and state of each run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest


def metrics_of(runs: Iterable[dict[str, Any]]) -> bytes:
    """The summaries of runs in Prometheus' text format."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"pqbench_run_{name}", text, ["run", "manifest", *labels], registry=registry)

    running = gauge("running", "Whether a process executes the run.")
    started = gauge("started_timestamp_seconds", "When the run was begun.")
    planned, ended = gauge("steps_planned", "Steps of the plan."), gauge("steps_ended", "Steps that have ended.")
    cells = gauge("cells", "Cells by how they ended.", "outcome")
    unstable = gauge("cells_unstable", "Timed cells whose measurement is unstable.")
    for run in runs:
        names = (run["run"], run["manifest"])
        running.labels(*names).set(run["running"])
        started.labels(*names).set(run["started_s"])
        planned.labels(*names).set(run["steps_planned"])
        ended.labels(*names).set(run["steps_ended"])
        unstable.labels(*names).set(run["unstable"])
        for outcome, count in run["outcomes"].items():
            cells.labels(*names, outcome).set(count)
    return generate_latest(registry)
