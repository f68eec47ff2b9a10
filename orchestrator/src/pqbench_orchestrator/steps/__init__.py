"""Kinds of steps, one per file: a frozen Spec with what decides its key, how it runs, and whether it may be reused."""
