"""Runs that are disturbed at random and must end with the table of an undisturbed one: python -m tests.chaos."""
