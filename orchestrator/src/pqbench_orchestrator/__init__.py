"""The orchestrator of pqbench; `from pqbench_orchestrator.api import benchmark` runs an experiment from Python."""
