"""Model families, one per file; each implements `pqbench_compressor.plugins.ModelPlugin`."""
