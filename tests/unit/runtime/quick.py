"""Settings and calls of measurements that take a moment."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, ParamSpec

from pqbench.runtime.v1.runtime_pb2 import MeasureSettings
from pqbench_runtime.scenarios import Call

QUICK: dict[str, Any] = {
    "warmup_seconds": 0.0, "warmup_iterations": 2, "min_seconds": 0.03, "min_iterations": 6, "max_seconds": 0.03,
    "stability": 0.05, "windows": 6, "discard": 1,
}  # fmt: skip


Given = ParamSpec("Given")
TRIES = 3


def up_to_three_times(test: Callable[Given, None]) -> Callable[Given, None]:
    """A test of real times, tried again where a busy machine held it up."""

    @functools.wraps(test)
    def tried(*given: Given.args, **named: Given.kwargs) -> None:
        for left in reversed(range(TRIES)):
            try:
                test(*given, **named)
                break
            except AssertionError:
                if not left:
                    raise

    return tried


def settings(**changes: float) -> MeasureSettings:
    """Settings of a measurement, with changes."""
    return MeasureSettings(**(QUICK | changes))


def sleeper(seconds: float) -> Call:
    """A call that takes so long."""
    return lambda: time.sleep(seconds)
