"""A small sample of all 1000 ImageNet classes: a folder of images with labels.json, as in the thesis tool PQ Bench.

labels.json is {file: index}, {"files": {file: index}}, or ImageNet's class index {index: [synset, name]}. With the
class index, a file's label follows from the synset at the beginning of its name.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from pqbench_orchestrator.dataset import Data, PathText, Split
from pqbench_orchestrator.datasets._files import images_below, of_files
from pqbench_wire.errors import InvalidInput, Unavailable

REQUIRES = ()
CLASSES = 1000


@dataclass(frozen=True, kw_only=True)
class Config:
    """Where the images are; by default in the folder imagenet_sample of the data folder."""

    test: Annotated[PathText, Field(description="folder with labels.json")] = ""
    train: Annotated[PathText, Field(description="the same, of training images, for calibration")] = ""


def load(config: Config, root: Path, progress: Callable[[float], None] = lambda _: None) -> Data:
    test = Path(config.test) if config.test else root / "imagenet_sample"
    if not test.is_dir():
        raise Unavailable(f"imagenet1000: put images and labels.json into {test}, or give config: {{test: <folder>}}")
    splits = {"test": _split(test)}
    if config.train:
        splits["train"] = _split(Path(config.train))
    return Data(splits=splits, classes=[str(i) for i in range(CLASSES)])  # type: ignore[arg-type]


def _split(folder: Path) -> Split:
    try:
        given = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"imagenet1000: {folder / 'labels.json'}: {error}") from error
    paths, skipped = images_below(folder)
    if not paths:
        raise InvalidInput(f"imagenet1000: {folder} has no images")
    indices = [_label(path, folder, given) for path in paths]
    return of_files(paths, np.asarray(indices, np.int64), folder, skipped)


def _label(path: Path, folder: Path, given: Any) -> int:
    files = given.get("files", given) if isinstance(given, dict) else {}
    files = files if isinstance(files, dict) else {}
    for name in (path.relative_to(folder).as_posix(), path.name, path.stem):
        if isinstance(files.get(name), int) and 0 <= files[name] < CLASSES:
            return int(files[name])
    synset = path.stem.partition("_")[0]
    for index, entry in files.items():
        if isinstance(entry, list) and entry and entry[0] == synset and str(index).isdigit():
            return int(index)
    raise InvalidInput(f"imagenet1000: {folder / 'labels.json'} has no label 0 to 999 for {path.name}")
