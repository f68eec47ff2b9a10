"""A folder of images, one sub-folder a class, with an optional map from classes to a model's outputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydantic import Field

from pqbench_orchestrator.dataset import Data, Split, fingerprint_files
from pqbench_wire.errors import InvalidInput

REQUIRES = ()
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Where the images are."""

    test: Annotated[str, Field(min_length=1, description="folder with one sub-folder a class, for scoring")]
    train: Annotated[str, Field(description="the same, for calibration and training")] = ""
    outputs: Annotated[
        dict[str, int] | None, Field(description="class -> the model's output; given: scored on these outputs only")
    ] = None


def load(config: Config, root: Path) -> Data:
    test, classes = _split(Path(config.test), None)
    splits = {"test": test}
    if config.train:
        splits["train"] = _split(Path(config.train), classes)[0]
    return Data(splits=splits, classes=classes, outputs=_outputs(config, classes))  # type: ignore[arg-type]


def _split(folder: Path, expected: list[str] | None) -> tuple[Split, list[str]]:
    if not folder.is_dir():
        raise InvalidInput(f"folder: {folder} is not a folder")
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if expected is not None and classes != expected:
        raise InvalidInput(f"folder: {folder} has other classes than the test folder")
    listed = [sorted(p for p in (folder / c).rglob("*") if p.suffix.lower() in SUFFIXES) for c in classes]
    paths = [path for group in listed for path in group]
    if not paths:
        raise InvalidInput(f"folder: {folder} has no images in sub-folders; one sub-folder a class is expected")
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(group) for group in listed])
    return Split(open=lambda i: _open(paths[i]), labels=labels, fingerprint=fingerprint_files(paths, folder)), classes


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (UnidentifiedImageError, OSError) as error:
        raise InvalidInput(f"folder: {path} cannot be decoded: {error}") from error


def _outputs(config: Config, classes: list[str]) -> tuple[int, ...] | None:
    if config.outputs is None:
        return None
    if missing := [name for name in classes if name not in config.outputs]:
        raise InvalidInput(f"folder: outputs has no entry for class {missing[0]!r}")
    return tuple(config.outputs[name] for name in classes)
