"""Reading an experiment: a manifest in YAML, or the thesis' config.ini."""

from __future__ import annotations

from pathlib import Path

from pqbench_orchestrator.config.manifest import Manifest
from pqbench_orchestrator.config.paths import absolute
from pqbench_orchestrator.config.strict import load
from pqbench_orchestrator.config.thesis import ON_CPU, ThesisTarget, is_thesis_config, load_ini


def load_manifest(path: Path) -> Manifest:
    """The manifest in a YAML file, its paths made absolute. Raises InvalidInput with file and key."""
    return absolute(load(path, Manifest), path.resolve().parent)


def read_experiment(path: Path, thesis_target: ThesisTarget = ON_CPU) -> Manifest:
    """The manifest in a YAML file, or in a config.ini of the thesis. Raises InvalidInput with file and key."""
    return load_ini(path, thesis_target) if is_thesis_config(path) else load_manifest(path)
