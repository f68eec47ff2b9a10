"""CIFAR-100 with its 100 fine labels: the original binary archive (downloaded once), or .npz files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from pqbench_orchestrator.dataset import Data, PathText, SplitName
from pqbench_orchestrator.datasets import _cifar

REQUIRES = ()
URL = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
MD5 = "03b5dce01913d631647c71ecec9e9cb8"
CLASSES = [str(index) for index in range(100)]
FILES: dict[SplitName, list[str]] = {"train": ["train.bin"], "test": ["test.bin"]}
LABELS = 2  # label bytes before an image: coarse, fine


@dataclass(frozen=True, kw_only=True)
class Config:
    """Where the images are; by default in the folder cifar100 of the data folder, downloaded if absent."""

    train: Annotated[PathText, Field(description=".npz with uint8 images [N,32,32,3] and labels [N]")] = ""
    test: Annotated[PathText, Field(description=".npz with uint8 images [N,32,32,3] and labels [N]")] = ""


def load(config: Config, root: Path, progress: Callable[[float], None] = lambda _: None) -> Data:
    if config.train or config.test:
        return _cifar.from_npz({"train": config.train, "test": config.test}, CLASSES)
    return _cifar.from_archive(root, "cifar100", URL, MD5, FILES, LABELS, CLASSES, progress)
