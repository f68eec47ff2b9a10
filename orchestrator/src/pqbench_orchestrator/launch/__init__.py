"""Launchers: how a service comes to run, one way a file; each meets `pqbench_orchestrator.services.Launcher`."""
