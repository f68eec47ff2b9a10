"""What datasets made of image files share: listing classes, opening, downloading and unpacking archives."""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from pqbench_orchestrator.dataset import Split, fingerprint_files
from pqbench_wire.download import download
from pqbench_wire.errors import InvalidInput
from pqbench_wire.jobs import first_line

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}


def images_below(folder: Path) -> list[Path]:
    """All images below a folder, in the order of their paths."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)


def sub_folders(folder: Path) -> list[str]:
    """The names of a folder's sub-folders, sorted. Raises InvalidInput where it is none."""
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is not a folder")
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def class_folders(folder: Path, classes: Sequence[str]) -> Split:
    """The images in the sub-folders `classes`; labels index into these."""
    listed = [images_below(folder / name) for name in classes]
    paths = [path for group in listed for path in group]
    if not paths:
        raise InvalidInput(f"{folder} has no images in sub-folders; one sub-folder a class is expected")
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(group) for group in listed])
    return of_files(paths, labels, folder)


def of_files(paths: Sequence[Path], labels: np.ndarray, base: Path) -> Split:
    """A split of image files below `base`, labels int64 [N]."""
    files, answers = fingerprint_files(paths, base), hashlib.sha256(labels.tobytes()).hexdigest()
    return Split(open=lambda i: open_image(paths[i]), labels=labels, fingerprint=f"{files} {answers}")


def open_image(path: Path) -> Image.Image:
    """Decode one file. Raises InvalidInput that names it."""
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise InvalidInput(f"{path} cannot be decoded: {error}") from error


def npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The arrays `images` and `labels` of a .npz file. Raises InvalidInput where there are none."""
    try:
        if not path.is_file():
            raise InvalidInput(f"there is no file {path}")
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["images"], arrays["labels"]
    except KeyError as error:
        raise InvalidInput(f"{path}: not an .npz with images and labels: {first_line(error)}") from error
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidInput(f"{path}: not an .npz with images and labels") from error


def unpacked(
    root: Path, folder: str, url: str, checksum: str, progress: Callable[[float], None] = lambda _: None
) -> Path:
    """The folder `folder` below `root`, downloaded and unpacked first if it is not there.

    Raises Unavailable with what to put where. An interrupted unpacking leaves no half folder.
    """
    target = root / folder
    if target.is_dir():
        return target
    archive = root / url.rpartition("/")[2]
    download(url, archive, checksum, f"put the unpacked folder at {target}, or the archive at {archive}", progress)
    unpacking = root / f".{folder}.unpacking"
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(unpacking, filter="data")
    except tarfile.TarError as error:
        raise InvalidInput(
            f"{archive} cannot be unpacked: {first_line(error)}; delete it, so that it is fetched anew"
        ) from error
    inner = [path for path in unpacking.iterdir() if path.is_dir()]
    (inner[0] if len(inner) == 1 else unpacking).replace(target)
    if unpacking.is_dir():
        unpacking.rmdir()
    archive.unlink()
    return target
