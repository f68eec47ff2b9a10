"""The runtime service: builds engines, times them, runs datasets through them."""
