"""Models, one family a file; each meets `pqbench_compressor.plugins.ModelPlugin`."""
