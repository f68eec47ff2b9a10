"""Images in .npz files: an array `images`, uint8 [N, H, W, C] with 1 or 3 channels, and an array `labels` [N]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import Field

from pqbench_orchestrator.dataset import Data, PathText, Split, SplitName, fingerprint_files
from pqbench_orchestrator.datasets._files import npz
from pqbench_wire.errors import InvalidInput

REQUIRES = ()


@dataclass(frozen=True, kw_only=True)
class Config:
    """The files of the splits."""

    test: Annotated[PathText, Field(min_length=1, description=".npz for scoring")]
    train: Annotated[PathText, Field(description=".npz for calibration and training")] = ""


def load(config: Config, root: Path, progress: Callable[[float], None] = lambda _: None) -> Data:
    given: dict[SplitName, str] = {"test": config.test, "train": config.train}
    splits = {name: _split(Path(path)) for name, path in given.items() if path}
    count = 1 + max(int(split.labels.max()) for split in splits.values())
    return Data(splits=splits, classes=[str(index) for index in range(count)])


def _split(path: Path) -> Split:
    images, labels = npz(path)
    fits = images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] in (1, 3)
    if not fits or labels.shape != images.shape[:1] or not len(labels) or labels.min() < 0:
        raise InvalidInput(
            f"{path}: uint8 images [N, H, W, 1 or 3] and labels [N] are expected, "
            f"got {images.dtype} {list(images.shape)} and {list(labels.shape)}"
        )
    return Split(
        open=lambda i: Image.fromarray(images[i, :, :, 0] if images.shape[3] == 1 else images[i]),
        labels=labels.astype(np.int64),
        fingerprint=fingerprint_files([path], path.parent),
    )
