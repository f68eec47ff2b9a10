"""Choices on held-out images."""

from __future__ import annotations

import numpy as np
import pytest

from pqbench_compressor import export
from pqbench_compressor.plugins import Context
from pqbench_compressor.quantizers._heldout import fewest
from pqbench_wire.errors import Refused


def test_the_fewest_layers_stay_in_fp32(context: Context) -> None:
    harm = {f"layer{i}": float(i == 3) * 5 + float(i == 7) * 3 + 0.01 for i in range(20)}

    def drop(kept: list[str]) -> float:
        return sum(points for name, points in harm.items() if name not in kept)

    def kept(max_drop: float) -> list[str]:
        return fewest(list(harm), drop, lambda names: -drop(names), max_drop, context)

    assert kept(9) == []
    assert kept(4) == ["layer3"]
    assert sorted(kept(0.5)) == ["layer3", "layer7"]
    with pytest.raises(Refused, match="with all layers but one in FP32, 0.01 points are still lost; max_drop is 0.001"):
        kept(0.001)


def test_a_silent_reference_is_not_equal_to_noise() -> None:
    silent, loud = np.zeros((2, 3)), np.ones((2, 3))
    assert export.sqnr(silent, silent) == 200 and export.sqnr(silent, loud) == -np.inf
