"""The compressor service: prunes, fine-tunes, quantizes, exports and verifies models."""
