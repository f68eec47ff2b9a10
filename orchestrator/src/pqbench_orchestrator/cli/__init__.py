"""The `pqbench` command, a file for each group of its commands. It parses, calls and prints; others do the work."""

from __future__ import annotations

import signal
from typing import NoReturn

from pqbench_orchestrator.cli import decisions, experiments, machine, outputs
from pqbench_orchestrator.cli.app import app

GROUPS = (experiments, outputs, decisions, machine)  # whose commands are registered by their import


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point."""
    signal.signal(signal.SIGTERM, _interrupt)
    app()
