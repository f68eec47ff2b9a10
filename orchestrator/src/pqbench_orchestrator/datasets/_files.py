"""Shared by datasets: listing and decoding image files, reading .npz files, downloading and unpacking archives."""

from __future__ import annotations

import hashlib
import os
import struct
import tarfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from pqbench_orchestrator.dataset import Split, fingerprint_files
from pqbench_wire.errors import InvalidInput, first_line
from pqbench_wire.shared.download import download

SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".tif",
            ".tiff"}  # fmt: skip
SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation"}  # common names of their folders
MOST_PIXELS = 1 << 26  # of one image: a larger one is refused before it is decoded
warnings.filterwarnings("ignore", "Corrupt EXIF data")  # Pillow's warning; corrupt EXIF data are ignored
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit is off: MOST_PIXELS is checked before an image is decoded
FULL_SCALE = 65535  # largest value of images with 16 bits per channel
DIRECT = ("1", "P", "PA", "LA", "La", "CMYK", "YCbCr", "HSV", "RGBA", "RGBX", "RGBa")  # Pillow converts them to RGB


def images_below(folder: Path) -> tuple[list[Path], Counter[str]]:
    """All image files below a folder, sorted by path, and numbers of skipped files with an image's suffix, by reason.

    Hidden files, broken links and files that are not regular are skipped.
    """
    found, skipped = [], Counter[str]()
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            skipped["hidden files"] += 1
        elif path.is_file():
            found.append(path)
        elif not path.is_dir():  # a folder may have an image's suffix: it is no skipped file, and its images are found
            skipped["broken links" if path.is_symlink() else "special files"] += 1
    return found, skipped


def sub_folders(folder: Path) -> list[str]:
    """The names of a folder's sub-folders, sorted, without hidden ones.

    Raises InvalidInput where `folder` is not a folder or has a broken link in it.
    """
    if not folder.is_dir():
        raise InvalidInput(f"{shown(folder)} is not a folder")
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    if broken := next((path for path in entries if path.is_symlink() and not path.exists()), None):
        raise InvalidInput(f"{shown(broken)} is a broken link")
    return sorted(path.name for path in entries if path.is_dir())


def check_not_splits(folder: Path, classes: Sequence[str]) -> None:
    """Raise InvalidInput where a folder's sub-folders are splits, such as train and val, and not classes."""
    inner = [folder / name for name in classes]
    if len(inner) > 1 and set(classes) <= SPLITS and all(sub_folders(one) for one in inner):
        raise InvalidInput(f"{shown(folder)} has the splits {', '.join(classes)}: name one of them, as {inner[-1]}")


def class_folders(folder: Path, classes: Sequence[str]) -> Split:
    """The images in the sub-folders `classes`; labels index into `classes`. Raises InvalidInput without any image."""
    listed = [images_below(folder / name) for name in classes]
    paths = [path for group, _ in listed for path in group]
    if not paths:
        raise InvalidInput(f"{shown(folder)} has no images in sub-folders; one sub-folder per class is expected")
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(group) for group, _ in listed])
    empty = [shown(Path(name)) for name, (group, _) in zip(classes, listed, strict=True) if not group]
    notes = [f"{shown(folder)}: no images in {', '.join(empty)}, which still count as classes"] if empty else []
    return of_files(paths, labels, folder, sum((skipped for _, skipped in listed), Counter[str]()), notes)


def of_files(
    paths: Sequence[Path],
    labels: np.ndarray,
    base: Path,
    skipped: Counter[str] | None = None,
    notes: Sequence[str] = (),
) -> Split:
    """A split of image files below `base` with labels int64 [N].

    `skipped`: numbers of skipped files by reason, as `images_below` gives them; they become a note.
    """
    files, answers = fingerprint_files(paths, base), hashlib.sha256(labels.tobytes()).hexdigest()
    parts = ", ".join(f"{count} {what}" for what, count in (skipped or {}).items())
    return Split(
        open=lambda i: open_image(paths[i]),
        labels=labels,
        fingerprint=f"{files} {answers}",
        notes=(*notes, *([f"{shown(base)}: skipped {parts}"] if parts else ())),
    )


def shown(path: Path) -> str:
    """A path as text for a message; bytes that are not UTF-8 become replacement characters."""
    return os.fsencode(path).decode("utf-8", "replace")


UNREADABLE = (  # what Pillow's decoders raise
    UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError, TypeError, KeyError,
    IndexError, AttributeError, EOFError, OverflowError, struct.error,
)  # fmt: skip


def open_image(path: Path) -> Image.Image:
    """Decode one file as an image of mode L or RGB with 8 bits per channel, rotated by its EXIF orientation.

    Of an animation it is the first frame. Raises InvalidInput that names the file.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MOST_PIXELS:
                raise InvalidInput(
                    f"{shown(path)} has {image.width} × {image.height} pixels; at most {MOST_PIXELS} are read"
                )
            image.load()
            return _eight_bits(_upright(image), path)
    except UNREADABLE as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else first_line(error)
        raise InvalidInput(f"{shown(path)} cannot be decoded: {reason}") from error


def _upright(image: Image.Image) -> Image.Image:
    """The image rotated by its EXIF orientation; EXIF data that cannot be read are ignored."""
    try:
        return ImageOps.exif_transpose(image)
    except (struct.error, TypeError, KeyError, EOFError, IndexError, AttributeError, SyntaxError):
        return image.copy()


def _eight_bits(image: Image.Image, path: Path) -> Image.Image:
    """The image with 8 bits per channel: 16 bits are scaled down, floating point is taken to range from 0 to 1.

    Raises InvalidInput for other colour modes, and for values outside the range.
    """
    if image.mode in ("L", "RGB"):
        return image
    if image.mode in DIRECT:
        return image.convert("RGB")
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
        assert converted is not None  # it is None only with inPlace=True
        return converted
    if image.mode != "F" and not image.mode.startswith("I"):
        raise InvalidInput(f"{shown(path)} is in the colour mode {image.mode}, which is not read; save it as RGB")
    values = np.asarray(image, np.float64)
    largest = 1.0 if image.mode == "F" else FULL_SCALE
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > largest:
        raise InvalidInput(f"{shown(path)} has values beyond 0 to {largest:g}: save it with 8 bits per channel")
    return Image.fromarray(np.round(values * (255 / largest)).astype(np.uint8))


def npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The arrays `images` and `labels` of a .npz file. Raises InvalidInput where the file or an array is missing."""
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

    `progress` is called with the fraction of the download. An interrupted unpacking leaves no incomplete `folder`.
    Raises Unavailable, whose message says which file to put where, for a failed download, BlobCorrupt for a wrong
    checksum, and InvalidInput for an archive that cannot be unpacked.
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
            f"{archive} cannot be unpacked: {first_line(error)}; delete it to download it again"
        ) from error
    inner = [path for path in unpacking.iterdir() if path.is_dir()]
    (inner[0] if len(inner) == 1 else unpacking).replace(target)
    if unpacking.is_dir():
        unpacking.rmdir()
    archive.unlink()
    return target
