"""Backends, one a file; each meets `pqbench_runtime.backend.Backend`."""
