"""Metrics, one a file; each meets `pqbench_orchestrator.metric.Metric`."""
