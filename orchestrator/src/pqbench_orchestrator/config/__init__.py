"""What an experiment is and where it runs: manifest, inventory, the thesis' config.ini."""
