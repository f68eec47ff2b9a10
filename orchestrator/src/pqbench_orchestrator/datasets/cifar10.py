"""CIFAR-10: the original binary archive (downloaded once), or .npz files with arrays `images` and `labels`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from pqbench_orchestrator.dataset import Data, PathText, SplitName
from pqbench_orchestrator.datasets import _cifar

REQUIRES = ()
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FILES: dict[SplitName, list[str]] = {
    "train": [f"data_batch_{i}.bin" for i in range(1, 6)],
    "test": ["test_batch.bin"],
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Where the images are; by default in the folder cifar10 of the data folder, downloaded if absent."""

    train: Annotated[PathText, Field(description=".npz with uint8 images [N,32,32,3] and labels [N]")] = ""
    test: Annotated[PathText, Field(description=".npz with uint8 images [N,32,32,3] and labels [N]")] = ""


def load(config: Config, root: Path, progress: Callable[[float], None] = lambda _: None) -> Data:
    if config.train or config.test:
        return _cifar.from_npz({"train": config.train, "test": config.test}, CLASSES)
    return _cifar.from_archive(root, "cifar10", URL, MD5, FILES, 1, CLASSES, progress)
