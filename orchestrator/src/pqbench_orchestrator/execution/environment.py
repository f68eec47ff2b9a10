"""The environment record of a run: the machine, the targets with their devices and options, and all versions."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from pqbench_orchestrator.config.recipes import Recipe
from pqbench_orchestrator.dataset import DATASETS
from pqbench_orchestrator.metric import METRICS
from pqbench_orchestrator.planning.facts import Survey
from pqbench_orchestrator.planning.places import ORCHESTRATOR
from pqbench_orchestrator.store.run_folder import material_file
from pqbench_wire.errors import InvalidInput
from pqbench_wire.materials import bill_of_materials
from pqbench_wire.process import required_by, source_version, versions_of


def own_versions() -> dict[str, str]:
    """The versions that decide the results of the orchestrator's own steps, preparing and scoring."""
    own = {name.replace("_", "-"): source_version(name) for name in ("pqbench_orchestrator", "pqbench_wire")}
    return own | versions_of("numpy", "pillow") | DATASETS.libraries() | METRICS.libraries()


def record(facts: Survey, run: str) -> dict[str, Any]:
    """The record as JSON; the Git commit is None where it cannot be read."""
    return {
        "run": run,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": _host(),
        "git_commit": _git_commit(),
        "orchestrator": own_versions() | versions_of(*required_by("pqbench-orchestrator", "pqbench-wire")),
        "compressors": {place: one.versions for place, one in facts.compressors.items()},
        "materials": {place: material_file(bill) for place, bill in materials(facts).items()},
        "images": images(),
        "models": {
            label: {"fixed_batch": one.fixed_batch}
            for (label, identity), one in facts.recipes.items()
            if identity == Recipe().identity
        },
        "datasets": {
            label: {"class_names": one.class_names, "outputs": one.outputs} for label, one in facts.datasets.items()
        },
        "targets": {
            name: {
                "backend": t.backend,
                "device": t.device,
                "lacks_device": t.lacks_device,
                "built_for": t.built_for,
                "options": t.options_json,
                "timed_options": list(t.timed_options),
                "engine_file": t.engine_file,
                "scripts": t.scripts,
                "versions": t.versions,
                "environment": t.environment,
            }
            for name, t in facts.targets.items()
        },
    }


def images() -> dict[str, str]:
    """The digests of the images by name, where `make up` started the services: lines of both in PQBENCH_IMAGES.

    Raises InvalidInput for other lines.
    """
    pairs = [line.split() for line in os.environ.get("PQBENCH_IMAGES", "").splitlines()]
    if wrong := [" ".join(pair) for pair in pairs if len(pair) != 2]:
        raise InvalidInput(
            f"PQBENCH_IMAGES has lines of an image and its digest, as `make up` writes, not {wrong[0]!r}"
        )
    return dict(pairs)


def materials(facts: Survey) -> dict[str, bytes]:
    """The bills of materials of the orchestrator, the compressors and the targets' services: CycloneDX, JSON."""
    found = {place: one.bill_of_materials for place, one in facts.compressors.items()}
    found |= {target: one.bill_of_materials for target, one in facts.targets.items()}
    return {ORCHESTRATOR: bill_of_materials("pqbench-orchestrator")} | {
        place: bill for place, bill in found.items() if bill
    }


def _host() -> dict[str, Any]:
    return {
        "os": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_average": os.getloadavg(),
    }


def _git_commit() -> str | None:
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
