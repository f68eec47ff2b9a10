"""CIFAR-10: the original binary archive (downloaded once), or .npz files with `images` and `labels`."""

from __future__ import annotations

import hashlib
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import Field

from pqbench_orchestrator.dataset import Data, Split, SplitName, fingerprint_files
from pqbench_wire.errors import InvalidInput, Unavailable

REQUIRES = ()
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FILES: dict[SplitName, list[str]] = {
    "train": [f"data_batch_{i}.bin" for i in range(1, 6)],
    "test": ["test_batch.bin"],
}
RECORD = 1 + 3 * 32 * 32  # bytes: a label, then red, green and blue planes


@dataclass(frozen=True, kw_only=True)
class Config:
    """Where the images are; nothing given: below data/cifar10, downloaded if absent."""

    train: Annotated[str, Field(description=".npz with uint8 images [N,32,32,3] and labels [N]")] = ""
    test: Annotated[str, Field(description=".npz with uint8 images [N,32,32,3] and labels [N]")] = ""


def load(config: Config, root: Path) -> Data:
    given: dict[SplitName, str] = {"train": config.train, "test": config.test}
    if any(given.values()):
        return Data(splits={name: _npz(Path(path)) for name, path in given.items() if path}, classes=CLASSES)
    folder = root / "cifar10"
    return Data(splits={name: _binary(folder, _files(folder, name)) for name in FILES}, classes=CLASSES)


def _npz(path: Path) -> Split:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except (OSError, ValueError, KeyError) as error:
        raise InvalidInput(f"cifar10: {path}: not an .npz with images and labels: {error}") from error
    if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3) or labels.shape != images.shape[:1]:
        raise InvalidInput(f"cifar10: {path}: images {images.dtype} {images.shape}, labels {labels.shape} do not fit")
    return _split(images, labels, fingerprint_files([path], path.parent))


def _binary(folder: Path, paths: list[Path]) -> Split:
    raw = np.concatenate([np.fromfile(path, np.uint8) for path in paths])
    if len(raw) % RECORD:
        raise InvalidInput(f"cifar10: {folder}: files are cut short; delete the folder to download again")
    records = raw.reshape(-1, RECORD)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return _split(images, records[:, 0], fingerprint_files(paths, folder))


def _split(images: np.ndarray, labels: np.ndarray, fingerprint: str) -> Split:
    return Split(
        open=lambda i: Image.fromarray(np.ascontiguousarray(images[i])),
        labels=labels.astype(np.int64),
        fingerprint=fingerprint,
    )


def _files(folder: Path, split: SplitName) -> list[Path]:
    paths = [folder / name for name in FILES[split]]
    if not all(path.is_file() for path in paths):
        _download(folder)
    return paths


def _download(folder: Path) -> None:
    """Fetch, check and unpack the archive. Raises Unavailable with what to do instead."""
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / "cifar-10-binary.tar.gz"
    if not archive.is_file():
        partial = archive.with_suffix(".partial")
        try:
            urllib.request.urlretrieve(URL, partial)
        except OSError as error:
            raise Unavailable(f"cifar10: cannot download {URL} ({error}); put the file into {folder}") from error
        partial.replace(archive)
    if hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest() != MD5:
        archive.unlink()
        raise InvalidInput(f"cifar10: {archive.name} has the wrong MD5 and was deleted; run again to download it")
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            if member.name.endswith(".bin"):
                member.name = Path(member.name).name
                tar.extract(member, folder, filter="data")
