"""The benchmark of all techniques, on small models."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from .conftest import ROOT


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_every_technique_of_the_matrix_on_a_small_transformer(shared_data: Path) -> None:
    """Every pruner and every quantizer, on real images; the contract tests have them on a convolutional network."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import matrix

    model, cells = "timm/test_vit", {}
    matrix.run(
        [model], matrix.pictures_of(shared_data / "imagenet_sample.zip", 32), matrix.TECHNIQUES, cells, lambda: None
    )
    said = {technique: found[model] for technique, found in cells.items()}
    assert len(said) == len(matrix.TECHNIQUES) and not [text for text in said.values() if text.startswith("**")]
    assert {technique for technique, text in said.items() if text.startswith("*")} <= {
        "removal bn-scale", "removal + recalibrate",
    }  # fmt: skip
