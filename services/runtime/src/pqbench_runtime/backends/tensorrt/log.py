"""TensorRT's logger: passes warnings on to Python's logging and keeps errors as the reason of a failure."""

from __future__ import annotations

import logging

import tensorrt as trt

KEPT = 3  # last errors that make up a reason
logger = logging.getLogger(__name__)


class Log(trt.ILogger):
    """Keeps the errors of one build or load."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self._errors: list[str] = []

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        """Called by TensorRT with each message."""
        if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
            self._errors.append(" ".join(message.split()))
        elif severity == trt.ILogger.Severity.WARNING:
            logger.warning("TensorRT: %s", message)

    def reason(self) -> str:
        """The last errors in one line, for the message of a failure."""
        return "; ".join(self._errors[-KEPT:]) or "it gives no reason"
