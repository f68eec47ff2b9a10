"""scikit-learn's handwritten digits: 1,797 grey images of 8x8 pixels, by default a fifth of them for testing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import Field
from sklearn import datasets
from sklearn.model_selection import train_test_split

from pqbench_orchestrator.dataset import Data, Split

REQUIRES = ("sklearn",)
LARGEST = 16  # the largest pixel value in scikit-learn's data


@dataclass(frozen=True, kw_only=True)
class Config:
    """How the images are split into training and test images."""

    test_share: Annotated[float, Field(gt=0, lt=1, description="share of images held out for testing")] = 0.2
    split_seed: Annotated[int, Field(ge=0, description="of the stratified split")] = 0


def load(config: Config, root: Path, progress: Callable[[float], None] = lambda _: None) -> Data:
    bunch = datasets.load_digits()
    pixels = np.clip(bunch.images * (255 / LARGEST), 0, 255).astype(np.uint8)
    train, test = train_test_split(
        np.arange(len(pixels)), test_size=config.test_share, random_state=config.split_seed, stratify=bunch.target
    )

    def split(indices: np.ndarray, name: str) -> Split:
        return Split(
            open=lambda i: Image.fromarray(pixels[indices[i]]),
            labels=bunch.target[indices].astype(np.int64),
            fingerprint=f"digits {name} {config.test_share} {config.split_seed}",
        )

    splits = {"train": split(np.sort(train), "train"), "test": split(np.sort(test), "test")}
    return Data(splits=splits, classes=[str(name) for name in bunch.target_names])  # type: ignore[arg-type]
