"""How far a build is (TensorRT 10 and later)."""

from __future__ import annotations

from collections.abc import Callable

import tensorrt as trt


class Monitor(trt.IProgressMonitor):
    """Tells the share of the steps of the outermost phase that are done."""

    def __init__(self, report: Callable[[float], None]) -> None:
        trt.IProgressMonitor.__init__(self)
        self._report = report
        self._steps: dict[str, int] = {}
        self._outermost = ""

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        """Called by TensorRT."""
        self._steps[phase_name] = num_steps
        if not parent_phase:
            self._outermost = phase_name

    def step_complete(self, phase_name: str, step: int) -> bool:
        """Called by TensorRT; true: go on. Whoever wants to stop a build kills its process."""
        if phase_name == self._outermost:
            self._report(min(1.0, (step + 1) / max(1, self._steps[phase_name])))
        return True

    def phase_finish(self, phase_name: str) -> None:
        """Called by TensorRT."""
        self._steps.pop(phase_name, None)
