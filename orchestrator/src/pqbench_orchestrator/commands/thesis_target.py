"""Where the thesis' config.ini runs: the best backend of this machine, or a named one."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench.runtime.v1.runtime_pb2 import Backend
from pqbench_orchestrator.commands.plugins import capabilities
from pqbench_orchestrator.config.thesis import BACKENDS, ON_CPU, ThesisTarget, is_thesis_config
from pqbench_wire.catalog import unknown
from pqbench_wire.errors import InvalidInput

BEST = "best"
# The thesis' int8: ranges from a calibration by the runtime, which TensorRT has up to version 10.
IMPLICIT = "int8-implicit"
CUDA = "pytorch-cuda"
ROUTE = (Precision.PRECISION_INT8, Form.FORM_ONNX_UNTYPED)


def choose(name: str, file: Path, has_inventory: bool) -> ThesisTarget:
    """Where the experiment in a file runs if it is a config.ini: on the target `name`, or the best of this machine.

    With an inventory, services run elsewhere: nothing is known of their machines, and the best is the CPU. Raises
    InvalidInput for an unknown name, or one that is given for a manifest.
    """
    if not is_thesis_config(file):
        if name != BEST:
            raise InvalidInput(f"--thesis-target: {file} is a manifest, which names its targets itself")
        return ON_CPU
    if name not in (BEST, *BACKENDS):
        raise InvalidInput(f"--thesis-target: {unknown('target', name, [BEST, *BACKENDS])}")
    is_local = not has_inventory and find_spec("pqbench_runtime") is not None
    return thesis_target(name, capabilities() if is_local else ())


def thesis_target(name: str, found: Iterable[Backend]) -> ThesisTarget:
    """The target `name`, or the best of those that `found` holds as available; int8 is made as the backend takes it."""
    here = {one.plugin.name: one for one in found}
    if name == BEST:
        name = next((one for one in BACKENDS if one in here and here[one].plugin.available), ON_CPU.backend)
    routes = {(route.precision, route.form) for route in here[name].routes} if name in here else set()
    has_cuda = name != ON_CPU.backend and (CUDA not in here or here[CUDA].plugin.available)
    return ThesisTarget(
        backend=name, int8=IMPLICIT if ROUTE in routes else ON_CPU.int8, pytorch=CUDA if has_cuda else ON_CPU.pytorch
    )
