"""Pruners, one per file; each implements `pqbench_compressor.plugins.Pruner`."""
