"""Commands that need no run."""
