"""Datasets, one per file; each module implements `pqbench_orchestrator.dataset.DatasetPlugin`."""
