"""The benchmark of all techniques, on small models."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from .conftest import ROOT


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_the_matrix_of_techniques_on_two_small_models(shared_data: Path, tmp_path: Path) -> None:
    """Every pruner and every quantizer on a convolutional network and a transformer, on real images."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import matrix

    models, cells = ["cifar/resnet20", "timm/test_vit"], {}
    matrix.run(
        models, matrix.pictures_of(shared_data / "imagenet_sample.zip", 32), matrix.TECHNIQUES, cells, lambda: None
    )
    failed = {(t, m): cells[t][m] for t in cells for m in models if cells[t][m].startswith("**")}
    assert not failed
    refused = {(t, m): cells[t][m] for t in cells for m in models if cells[t][m].startswith("*")}
    assert set(refused) <= {
        ("removal bn-scale", "timm/test_vit"), ("removal + recalibrate", "timm/test_vit"),
        ("INT4 weights, nearest", "cifar/resnet20"), ("INT4 weights, GPTQ", "cifar/resnet20"),
        ("removal, whole heads", "cifar/resnet20"),
    }  # fmt: skip
