"""Kinds of steps, one a file: a frozen Spec, its key, how it runs, and whether other runs may reuse it."""
