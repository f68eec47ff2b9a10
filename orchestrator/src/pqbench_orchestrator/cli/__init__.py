"""The `pqbench` command, one file per group of commands. It parses, calls and prints; other modules do the work."""

from __future__ import annotations

import signal
from typing import NoReturn

from pqbench_orchestrator.cli import decisions, experiments, machine, outputs, starting
from pqbench_orchestrator.cli.app import app

GROUPS = (starting, experiments, outputs, decisions, machine)  # importing them registers their commands


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> None:
    """The entry point of the `pqbench` command; SIGTERM is handled like Ctrl-C."""
    signal.signal(signal.SIGTERM, _interrupt)
    app()
