"""`pqbench doctor`: examines what this machine has, and what is missing."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from pqbench_orchestrator.commands.plugins import backends
from pqbench_wire.process import required_by, versions_of

OWN = ("pqbench-wire", "pqbench-compressor", "pqbench-runtime", "pqbench-orchestrator")


def examine(data: Path) -> dict[str, Any]:
    """Versions, devices, free memory and disk, and whether the compressor and each backend are available.

    For those that are missing it says what to install. `data`: the data folder, whose disk is examined.
    """
    existing = next(folder for folder in (data.resolve(), *data.resolve().parents) if folder.exists())
    memory = psutil.virtual_memory()
    return {
        "python": platform.python_version(),
        "os": platform.platform(),
        "versions": versions_of(*OWN, *required_by(*OWN)),
        "devices": {"cpu": f"{os.cpu_count()} cores"} | _gpus(),
        "memory": f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free",
        "disk": f"{shutil.disk_usage(existing).free / 2**30:.1f} GiB free at {existing}",
        "compressor": _installed("pqbench_compressor", "pqbench-compressor[cpu]"),
        "backends": _backends(),
    }


def _gpus() -> dict[str, str]:
    nodes = sorted(Path("/dev").glob("nvidia[0-9]*"))
    return {"nvidia": f"{len(nodes)} device(s): {', '.join(n.name for n in nodes)}"} if nodes else {}


def _installed(module: str, package: str) -> str:
    return "available" if find_spec(module) else f"missing: pip install {package}"


def _backends() -> dict[str, str]:
    if find_spec("pqbench_runtime") is None:
        return {"all": _installed("pqbench_runtime", "pqbench-runtime[onnxruntime,openvino,pytorch]")}
    return {p.name: "available" if p.available else f"missing: {p.unavailable_reason}" for p in backends()}
