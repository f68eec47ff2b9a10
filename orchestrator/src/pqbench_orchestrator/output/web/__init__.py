"""Pages of `pqbench serve`."""
