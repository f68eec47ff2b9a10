"""Where a step is done: names of the orchestrator, of the compressors, and of the targets' runtimes."""

from __future__ import annotations

ORCHESTRATOR = "orchestrator"
COMPRESSOR = "compressor"
TARGET = "target "


def of_target(name: str) -> str:
    """The place of a target's runtime."""
    return TARGET + name


def of_compressor(name: str) -> str:
    """The place of one of the other compressors that an inventory names."""
    return f"{COMPRESSOR} {name}"


def is_compressor(place: str) -> bool:
    """Whether a place is that of a compressor."""
    return place.partition(" ")[0] == COMPRESSOR


def shown(place: str) -> str:
    """A place as a person reads it: a target by its name."""
    return place.removeprefix(TARGET)
