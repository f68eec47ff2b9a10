"""What an experiment is and where it runs: manifest, inventory, and the config.ini of the thesis tool PQ Bench."""
