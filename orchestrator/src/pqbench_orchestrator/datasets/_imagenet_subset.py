"""Ten-class subsets of ImageNet by fast.ai: folders train/ and val/ with one sub-folder a synset."""

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
    """The subset below `root`; `outputs`: synset -> (output of an ImageNet model, name)."""
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
