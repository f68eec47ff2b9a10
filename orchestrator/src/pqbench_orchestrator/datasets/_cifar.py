"""Reads CIFAR's binary archives, or .npz files in their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pqbench_orchestrator.dataset import Data, Split, SplitName, fingerprint_files
from pqbench_orchestrator.datasets._files import npz, unpacked
from pqbench_wire.errors import InvalidInput

PIXELS = 3 * 32 * 32  # bytes of an image: its red, green and blue plane


def from_npz(given: dict[SplitName, str], classes: Sequence[str]) -> Data:
    """The splits for which a .npz file is given (a path that is not empty). Raises InvalidInput."""
    return Data(splits={name: _npz(Path(path)) for name, path in given.items() if path}, classes=classes)


def from_archive(
    root: Path, folder: str, url: str, md5: str, files: dict[SplitName, list[str]], labels: int,
    classes: Sequence[str], progress: Callable[[float], None],
) -> Data:  # fmt: skip
    """The splits in a binary archive, downloaded to `root` if absent.

    Each record of a file begins with `labels` label bytes, of which the last is used. Raises InvalidInput for missing
    or truncated files, and what `unpacked` raises.
    """
    path = unpacked(root, folder, url, f"md5:{md5}", progress)
    return Data(
        splits={name: _binary(path, [path / file for file in listed], labels) for name, listed in files.items()},
        classes=classes,
    )


def _npz(path: Path) -> Split:
    images, labels = npz(path)
    if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3) or labels.shape != images.shape[:1]:
        raise InvalidInput(
            f"{path}: uint8 images [N, 32, 32, 3] and labels [N] are expected, "
            f"got {images.dtype} {list(images.shape)} and {list(labels.shape)}"
        )
    return _split(images, labels, fingerprint_files([path], path.parent))


def _binary(folder: Path, paths: list[Path], labels: int) -> Split:
    if missing := next((path for path in paths if not path.is_file()), None):
        raise InvalidInput(f"{missing} is missing; delete the folder {folder} to download it again")
    raw = np.concatenate([np.fromfile(path, np.uint8) for path in paths])
    if len(raw) % (labels + PIXELS):
        raise InvalidInput(f"{folder}: files are truncated; delete the folder to download it again")
    records = raw.reshape(-1, labels + PIXELS)
    images = records[:, labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return _split(images, records[:, labels - 1], fingerprint_files(paths, folder))


def _split(images: np.ndarray, labels: np.ndarray, fingerprint: str) -> Split:
    return Split(
        open=lambda i: Image.fromarray(np.ascontiguousarray(images[i])),
        labels=labels.astype(np.int64),
        fingerprint=fingerprint,
    )
