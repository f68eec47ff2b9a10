"""ImageNet's validation images (ILSVRC 2012): val/<synset>/*.JPEG, or flat in val/ with val.txt ("file index" lines).

Training images in train/, in the same form, are used where there are any.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from pqbench_orchestrator.dataset import Data, PathText, Split
from pqbench_orchestrator.datasets._files import class_folders, of_files, sub_folders
from pqbench_wire.errors import InvalidInput, Unavailable

REQUIRES = ()
CLASSES = 1000


@dataclass(frozen=True, kw_only=True)
class Config:
    """Where the images are; ImageNet's licence does not allow pqbench to download them."""

    folder: Annotated[PathText, Field(description="folder with val/ and perhaps train/; default: data/imagenet")] = ""


def load(config: Config, root: Path, progress: Callable[[float], None] = lambda _: None) -> Data:
    folder = Path(config.folder) if config.folder else root / "imagenet"
    if not (folder / "val").is_dir():
        raise Unavailable(
            f"imagenet: put the validation images into {folder / 'val'}/<synset>/, or flat with {folder / 'val.txt'}; "
            "get them from image-net.org (registration required)"
        )
    splits = {"test": _split(folder, "val")}
    if (folder / "train").is_dir():
        splits["train"] = _split(folder, "train")
    return Data(splits=splits, classes=[str(i) for i in range(CLASSES)])  # type: ignore[arg-type]


def _split(folder: Path, part: str) -> Split:
    if (folder / f"{part}.txt").is_file():
        return _listed(folder / part, folder / f"{part}.txt")
    synsets = sub_folders(folder / part)
    if len(synsets) != CLASSES:
        raise InvalidInput(f"imagenet: {folder / part} has {len(synsets)} sub-folders, {CLASSES} synsets are expected")
    return class_folders(folder / part, synsets)


def _listed(folder: Path, listing: Path) -> Split:
    try:
        entries = [line.rsplit(maxsplit=1) for line in listing.read_text().splitlines() if line.strip()]
        labels = np.asarray([int(index) for _, index in entries], np.int64)
        paths = [folder / name for name, _ in entries]
    except (OSError, ValueError) as error:
        raise InvalidInput(f'imagenet: {listing}: "file index" on each line is expected: {error}') from error
    if missing := next((path for path in paths if not path.is_file()), None):
        raise InvalidInput(f"imagenet: {listing} lists {missing.name}, which is not in {folder}")
    return of_files(paths, labels, folder)
