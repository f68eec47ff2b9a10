"""Datasets: images as they are prepared, and folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench_orchestrator.dataset import DATASETS, chosen, fit
from pqbench_wire.errors import InvalidInput


def test_images_are_resized_and_cropped_like_torchvision() -> None:
    transforms = pytest.importorskip("torchvision.transforms.v2")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 401, 3), dtype=np.uint8))
    wanted = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])(image)
    ours = fit(image, Preprocessing(height=224, width=224, channels=3, resize=256, interpolation="bilinear"))
    np.testing.assert_array_equal(ours, np.asarray(wanted))


def test_a_limit_is_a_seeded_choice_in_order() -> None:
    assert chosen(5, None, 0).tolist() == [0, 1, 2, 3, 4]
    first = chosen(1000, 10, 1)
    assert sorted(first) == first.tolist() and first.max() > 500
    assert first.tolist() == chosen(1000, 10, 1).tolist() != chosen(1000, 10, 2).tolist()


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"test": "/no/where"}, "is not a folder"),
        ({}, "test: field required"),
        ({"test": "/tmp", "outputs": {"a": "x"}}, "outputs.a"),
    ],
)
def test_a_wrong_folder_is_one_clear_line(config: dict[str, object], problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        DATASETS.load("folder").load(DATASETS.configure("folder", json.dumps(config)), Path())


def test_a_folder_with_a_broken_image_says_which(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "broken.jpg").write_bytes(b"not a picture")
    data = DATASETS.load("folder").load(DATASETS.configure("folder", json.dumps({"test": str(tmp_path)})), Path())
    with pytest.raises(InvalidInput, match="broken.jpg cannot be decoded"):
        data.split("test").open(0)


def test_a_folder_of_splits_is_no_folder_of_classes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
    with pytest.raises(InvalidInput, match=f"has the splits train, val: name one of them, as {tmp_path}/val"):
        DATASETS.load("folder").load(DATASETS.configure("folder", json.dumps({"test": str(tmp_path)})), Path())
