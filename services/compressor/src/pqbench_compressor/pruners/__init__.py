"""Pruners, one a file; each meets `pqbench_compressor.plugins.Pruner`."""
