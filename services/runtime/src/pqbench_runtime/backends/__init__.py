"""Backends, one file each. None of their libraries may report its use."""

import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
