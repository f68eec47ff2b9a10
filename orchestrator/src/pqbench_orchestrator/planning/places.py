"""Places, where steps are done: the names of the orchestrator, the compressors, and the targets' runtimes."""

from __future__ import annotations

ORCHESTRATOR = "orchestrator"
COMPRESSOR = "compressor"
TARGET = "target "


def of_target(name: str) -> str:
    """The place of a target's runtime."""
    return TARGET + name


def of_compressor(name: str) -> str:
    """The place of one of an inventory's further compressors (`Inventory.compressors`)."""
    return f"{COMPRESSOR} {name}"


def is_compressor(place: str) -> bool:
    """Whether a place is that of a compressor."""
    return place.partition(" ")[0] == COMPRESSOR


def shown(place: str) -> str:
    """A place as the display shows it: a target by its name alone."""
    return place.removeprefix(TARGET)
