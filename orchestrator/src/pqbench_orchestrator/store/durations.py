"""How long steps took in earlier runs, from which the time of a plan is estimated."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from pathlib import Path
from statistics import mean

from pqbench_orchestrator.store.run_folder import runs_in
from pqbench_wire.errors import InvalidInput

NEWEST = 5  # how many runs count: older ones may be of other models or another machine


def mean_durations(data: Path) -> dict[str, float]:
    """Kind of step -> mean seconds in the newest runs of a data folder; a damaged run is left out."""
    found: dict[str, list[float]] = defaultdict(list)
    for run in reversed(runs_in(data)[-NEWEST:]):
        with contextlib.suppress(InvalidInput), run.ledger() as ledger:
            for kind, seconds in ledger.durations():
                found[kind].append(seconds)
    return {kind: mean(seconds) for kind, seconds in found.items()}
