"""Backends, one file each (TensorRT: a folder); a user's own may be in the folder that PQBENCH_PLUGINS names.

OpenVINO's telemetry package is made impossible to import: no library may report its use.
"""

import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
