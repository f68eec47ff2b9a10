"""Decisions from results: recommend, compare, search, measure again, and analyse the sensitivity of layers."""
