"""What plug-ins share."""

from __future__ import annotations

import numpy as np

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench_compressor.plugins import PRUNERS, QUANTIZERS, Training


def test_no_plug_in_has_an_option_that_a_manifest_cannot_set() -> None:
    for catalog in (PRUNERS, QUANTIZERS):
        for name in (name for name in catalog.names if not catalog.missing(name)):
            assert "method" not in catalog.load(name).Config.__dataclass_fields__, (
                f"{name}: method is the step's own key"
            )


def test_calibration_draws_from_the_whole_split() -> None:
    images = np.arange(100, dtype=np.uint8)[:, None, None, None]
    split = Training(images=images, labels=np.zeros(100), preprocessing=Preprocessing(height=1, width=1, channels=1,
        mean=[0], std=[1]))  # fmt: skip
    drawn = np.round(split.sample(20, 0).ravel() * 255)
    assert len(set(drawn)) == 20 and drawn.max() > 50
    held_out = np.round(split.held_out(80, 0)[0].ravel() * 255)
    everything = np.round(split.sample(100, 0).ravel() * 255)
    assert len(set(held_out)) == 10 and len(everything) == 90 and not set(held_out) & set(everything)
    assert set(split.fitting(0)) == set(everything)


def test_labels_of_a_subset_are_right_among_its_outputs() -> None:
    images, outputs = np.zeros((4, 1, 1, 3), np.uint8), np.zeros((4, 12), np.float32)
    outputs[:, 11] = 9  # no output of the subset
    outputs[[0, 1, 2, 3], [2, 5, 5, 2]] = 1
    split = Training(images=images, labels=np.array([2, 5, 2, 2]), preprocessing=Preprocessing(), outputs=(2, 5, 7))
    assert split.accuracy(outputs, split.labels) == 75
    whole = Training(images=images, labels=split.labels, preprocessing=Preprocessing())
    assert whole.accuracy(outputs, split.labels) == 0
