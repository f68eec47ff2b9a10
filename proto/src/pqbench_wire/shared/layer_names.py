"""Which layer of a model an entry of a runtime's profile belongs to."""

from __future__ import annotations

import re
from collections.abc import Collection


def layer_of(entry: str, layers: Collection[str]) -> str | None:
    """The layer with the longest name that an entry's name begins with; None if there is none.

    Profilers name what they ran after the first layer in it, as in "conv1_token_1" or "conv1/Fused".
    """
    begins = [name for name in layers if name and re.match(rf"{re.escape(name)}(?![a-zA-Z0-9.])", entry)]
    return max(begins, key=len, default=None)
