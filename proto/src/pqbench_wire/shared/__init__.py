"""What compressor, runtimes and orchestrator must do in the same way, and that is no part of a call."""
