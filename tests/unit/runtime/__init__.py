"""Tests of the runtime, as its tree."""
