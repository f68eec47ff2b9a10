"""What the plug-ins of other makers' tools share: their errors, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pqbench_wire.errors import PqbenchError, Refused
from pqbench_wire.jobs import first_line


@contextmanager
def asking(tool: str) -> Iterator[None]:
    """Whatever a tool raises says that it cannot quantize this model: Refused, with its reason."""
    try:
        yield
    except (PqbenchError, MemoryError):
        raise
    except Exception as error:  # each tool raises what it likes
        raise Refused(f"{tool} cannot quantize this model: {type(error).__name__}: {first_line(error)}") from error
