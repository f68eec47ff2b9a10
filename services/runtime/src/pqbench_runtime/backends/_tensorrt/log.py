"""TensorRT's logger: passes warnings on to Python's logging and keeps errors as the reason of a failure."""

from __future__ import annotations

import functools
import logging
from typing import Any

KEPT = 3  # last errors that make up a reason
logger = logging.getLogger(__name__)


@functools.cache
def log_of(trt: Any) -> Any:
    """The one logger of these bindings in this process: their plug-ins keep the first that they are given."""

    class Log(trt.ILogger):
        """Keeps the errors since `begin`."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: list[str] = []

        def begin(self) -> None:
            """Forget the errors so far: a build or a load begins."""
            self._errors.clear()

        def log(self, severity: Any, message: str) -> None:
            """Called by TensorRT with each message."""
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self._errors.append(" ".join(message.split()))
            elif severity == trt.ILogger.Severity.WARNING:
                logger.warning("TensorRT: %s", message)

        def reason(self) -> str:
            """The last errors in one line, for the message of a failure."""
            return "; ".join(self._errors[-KEPT:]) or "it gives no reason"

    return Log()
