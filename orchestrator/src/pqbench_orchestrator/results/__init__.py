"""Results of cells, and their tables."""
