"""Reads fast.ai's ten-class subsets of ImageNet: folders train/ and val/ with one sub-folder per synset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pqbench_orchestrator.dataset import Data
from pqbench_orchestrator.datasets._files import class_folders, sub_folders, unpacked
from pqbench_wire.errors import InvalidInput


def load(
    root: Path, folder: str, url: str, checksum: str, outputs: dict[str, tuple[int, str]],
    progress: Callable[[float], None],
) -> Data:  # fmt: skip
    """The subset in `folder` below `root`, downloaded if absent; val/ becomes the test split.

    `outputs`: synset -> (index of an ImageNet model's output, class name). Raises InvalidInput where the sub-folders
    are not these synsets, and what `unpacked` raises.
    """
    path = unpacked(root, folder, url, checksum, progress)
    synsets = sorted(outputs)
    for part in ("train", "val"):
        if sub_folders(path / part) != synsets:
            raise InvalidInput(f"{path / part}: expected the sub-folders {', '.join(synsets)}")
    return Data(
        splits={"train": class_folders(path / "train", synsets), "test": class_folders(path / "val", synsets)},
        classes=[outputs[synset][1] for synset in synsets],
        outputs=tuple(outputs[synset][0] for synset in synsets),
    )
