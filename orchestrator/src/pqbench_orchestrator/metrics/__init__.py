"""Metrics, one per file; each module implements `pqbench_orchestrator.metric.Metric`."""
