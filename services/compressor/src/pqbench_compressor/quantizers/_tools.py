"""Shared code of the plug-ins for vendor tools: how their errors are reported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pqbench_wire.errors import PqbenchError, Refused, first_line


@contextmanager
def asking(tool: str) -> Iterator[None]:
    """Turn whatever a vendor tool raises into Refused, with the tool's reason in one line.

    MemoryError and errors of pqbench's own pass through.
    """
    try:
        yield
    except (PqbenchError, MemoryError):
        raise
    except Exception as error:  # each tool raises what it likes
        raise Refused(f"{tool} cannot quantize this model: {type(error).__name__}: {first_line(error)}") from error
