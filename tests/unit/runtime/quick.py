"""Settings and calls of measurements that take a moment."""

from __future__ import annotations

import time
from typing import Any

from pqbench.runtime.v1.runtime_pb2 import MeasureSettings
from pqbench_runtime.scenarios import Call

QUICK: dict[str, Any] = {
    "warmup_seconds": 0.0, "warmup_iterations": 2, "min_seconds": 0.03, "min_iterations": 6, "max_seconds": 0.03,
    "stability": 0.05, "windows": 6, "discard": 1,
}  # fmt: skip


def settings(**changes: float) -> MeasureSettings:
    """Settings of a measurement, with changes."""
    return MeasureSettings(**(QUICK | changes))


def sleeper(seconds: float) -> Call:
    """A call that takes so long."""
    return lambda: time.sleep(seconds)
