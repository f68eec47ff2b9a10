"""The run's folder, its ledger and samples: written and read here and nowhere else."""
