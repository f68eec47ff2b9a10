"""Layer sensitivity."""

from __future__ import annotations

import numpy as np

from pqbench_compressor.sensitivity import Sensitivity

from .examples import CONTEXT, Kinds


def test_sensitivity_leaves_layers_of_every_kind_as_they_were() -> None:
    module = Kinds().eval()
    analysis = Sensitivity(module, CONTEXT, 2)
    before = analysis._run()
    points = analysis.rounding((8, 2))
    assert {point.layer for point in points} == {"c3", "c1", "a", "f"}, "of two layers with one weight the first"
    np.testing.assert_array_equal(analysis._run(), before)
    assert not any(layer._forward_pre_hooks for layer in module.modules())
