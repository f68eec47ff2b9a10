"""Runs the `pqbench` command as `python -m pqbench_orchestrator.cli`."""

from pqbench_orchestrator.cli import main

main()
