"""Tests of the compressor, as its tree."""
