"""Image files of every kind: read right, skipped with a count, or refused by name."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench_orchestrator.dataset import DATASETS, fit
from pqbench_orchestrator.datasets._files import images_below, open_image
from pqbench_wire.errors import InvalidInput

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
COLOURS = np.stack([GREY, GREY.T, 255 - GREY], -1)


def read(path: Path) -> np.ndarray:
    return np.asarray(open_image(path).convert("RGB"))


@pytest.mark.parametrize("name", ["int16.png", "int32.tiff", "float.tiff"])
def test_wide_pictures_keep_their_brightness(tmp_path: Path, name: str) -> None:
    wide = {"int16.png": GREY.astype(np.uint16) * 257, "int32.tiff": GREY.astype(np.int32) * 257,
            "float.tiff": GREY.astype(np.float32) / 255}[name]  # fmt: skip
    Image.fromarray(wide).save(tmp_path / name)
    np.testing.assert_array_equal(read(tmp_path / name), np.repeat(GREY[..., None], 3, -1))


def test_a_float_picture_beyond_its_range_is_refused(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(InvalidInput, match=r"a\.tiff has values beyond 0 to 1"):
        open_image(tmp_path / "a.tiff")


def test_modes_animations_and_rotation(tmp_path: Path) -> None:
    image = Image.fromarray(COLOURS)
    image.convert("RGBA").save(tmp_path / "rgba.png")
    image.save(tmp_path / "anim.tiff", save_all=True, append_images=[image.rotate(90)])
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: to be turned by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    for name in ("rgba.png", "anim.tiff"):
        np.testing.assert_array_equal(read(tmp_path / name), COLOURS)
    np.testing.assert_array_equal(read(tmp_path / "turned.png"), np.rot90(COLOURS, -1))
    image.convert("LAB").save(tmp_path / "lab.tiff")
    assert np.abs(read(tmp_path / "lab.tiff").astype(int) - COLOURS).mean() < 12
    image.resize((64, 64)).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    assert read(tmp_path / "cmyk.jpg").shape == (64, 64, 3)


def test_what_looks_like_a_picture_and_is_none_is_skipped_and_counted(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for name in ("a.png", "b.gif", "c.jfif"):
            Image.fromarray(GREY).save(tmp_path / label / name, "JPEG" if name.endswith("jfif") else None)
    (tmp_path / "cat" / "._a.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / "cat" / "sub.jpg").mkdir()
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    (tmp_path / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "dog" / "a.png").rename(tmp_path / "dog" / os.fsdecode(b"\xff\xfe.png"))
    (tmp_path / "bird").mkdir()
    data = DATASETS.load("folder").load(DATASETS.configure("folder", f'{{"test": "{tmp_path}"}}'), Path())
    split = data.split("test")
    assert split.labels.tolist() == [1, 1, 1, 2, 2, 2]
    assert all(split.open(index).size == (8, 8) for index in range(6))
    notes = " ".join(split.notes)
    assert "no images in bird, which still count as classes" in notes
    assert "1 hidden files" in notes and "1 broken links" in notes and "1 special files" in notes


def test_what_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    with pytest.raises(InvalidInput, match=r"bad\.jpg cannot be decoded: not an image"):
        open_image(tmp_path / "bad.jpg")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "large.png")
    with pytest.raises(InvalidInput, match=r"large\.png has 10000 × 10000 pixels"):
        open_image(tmp_path / "large.png")
    wanted = Preprocessing(height=224, width=224, channels=3, resize=256, interpolation="bilinear")
    with pytest.raises(InvalidInput, match="too long to resize"):
        fit(Image.new("RGB", (1, 100_000)), wanted)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_hidden_folders_and_broken_exif_data(tmp_path: Path) -> None:
    """Thumbnails of a file manager are not of the class whose folder they are in."""
    (tmp_path / "a" / ".thumbs").mkdir(parents=True)
    Image.fromarray(COLOURS).save(tmp_path / "a" / ".thumbs" / "1.png")
    Image.fromarray(COLOURS).save(tmp_path / "a" / "1.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    found, skipped = images_below(tmp_path)
    assert found == [tmp_path / "a" / "1.jpg"] and skipped == {"hidden files": 1}
    assert read(found[0]).shape == COLOURS.shape
