"""The run's folder, its ledger and samples, and the step cache: how these files are written and read."""
