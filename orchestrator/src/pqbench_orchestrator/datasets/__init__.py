"""Datasets, one a file; each meets `pqbench_orchestrator.dataset.DatasetPlugin`."""
