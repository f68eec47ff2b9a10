"""Results of cells: collecting them from the ledger, and their tables."""
