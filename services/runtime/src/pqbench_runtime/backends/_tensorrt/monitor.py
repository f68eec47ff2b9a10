"""Reports the progress of a build (TensorRT 10 and later, TensorRT for RTX)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def monitor(trt: Any, report: Callable[[float], None]) -> Any:
    """A progress monitor that calls `report` with the finished share of the outermost phase's steps, 0 to 1."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._outermost = ""

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            """Called by TensorRT at the start of a phase; the outermost has no parent."""
            self._steps[phase_name] = num_steps
            if not parent_phase:
                self._outermost = phase_name

        def step_complete(self, phase_name: str, step: int) -> bool:
            """Called by TensorRT; true lets the build go on. A build is stopped by killing its process instead."""
            if phase_name == self._outermost:
                report(min(1.0, (step + 1) / max(1, self._steps[phase_name])))
            return True

        def phase_finish(self, phase_name: str) -> None:
            """Called by TensorRT at the end of a phase."""
            self._steps.pop(phase_name, None)

    return Monitor()
