"""The benchmark of all techniques, on small models."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from .conftest import ROOT

ALIKE = {*(f"removal {criterion}" for criterion in ("random", "l1", "sensitivity", "hessian", "lamp", "fpgm")),
         "removal l2 isomorphic", "removal l2 of parameters", "INT8 static, percentile", "INT8 static, entropy"}  # fmt: skip


@pytest.mark.long
@pytest.mark.more
@pytest.mark.timeout(2400)
def test_the_techniques_of_the_matrix_on_a_small_transformer(shared_data: Path) -> None:
    """Removal and every quantizer, on real images; the contract tests have them on a convolutional network.

    Zero-fill pruners do not look at a network's structure. Of removal's criteria there are one of weights and one of
    gradients, of the methods for ranges two.
    """
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import matrix

    model, cells = "timm/test_vit", {}
    techniques = [
        (technique, steps)
        for technique, steps in matrix.TECHNIQUES
        if all(kind != "prune" or method == "removal" for kind, method, _ in steps) and technique not in ALIKE
    ]
    matrix.run([model], matrix.pictures_of(shared_data / "imagenet_sample.zip", 32), techniques, cells, lambda: None)
    said = {technique: found[model] for technique, found in cells.items()}
    assert list(said) == [technique for technique, _ in techniques]
    assert not [text for text in said.values() if text.startswith("**")], said
    assert {technique for technique, text in said.items() if text.startswith("*")} == {
        "removal bn-scale", "removal + recalibrate", "INT8 static, equalized",
    }  # fmt: skip
