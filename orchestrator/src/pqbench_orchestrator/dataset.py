"""What a dataset is, and how a split of it is prepared: decoded and resized once, then stored as uint8 arrays."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
from PIL import Image

from pqbench.common.v1.common_pb2 import Images, Preprocessing
from pqbench_wire.blobs import BlobStore
from pqbench_wire.catalog import Catalog
from pqbench_wire.errors import InvalidInput
from pqbench_wire.shared.held_out import split_training

SplitName = Literal["train", "test"]
MOST_SCALED = 1 << 28  # pixels that an image may have after scaling, before it is cropped
CHUNK = 256  # images decoded between two reports of progress
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class IsPath:
    """Marks a text of a configuration as a path: in a manifest it is relative to the manifest's file."""


PathText = Annotated[str, IsPath()]


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images that are decoded on demand.

    `open(i)` returns image i as a PIL image of any size; `labels` is int64 [N]; `fingerprint`
    changes when the data does. Data that are not images are in `inputs`: arrays [N, …] by name.
    """

    open: Callable[[int], Image.Image]
    labels: np.ndarray
    fingerprint: str
    labelled: bool = True  # False: `labels` mean nothing, and a variant is only compared with its baseline
    inputs: Mapping[str, np.ndarray] | None = None
    notes: tuple[str, ...] = ()  # notes for the manifest's author, such as files that were skipped


@dataclass(frozen=True, kw_only=True)
class Data:
    """A dataset: its splits and, for a subset of a larger label set, the model outputs to score on.

    With `outputs` given, labels index into it: label 0 is the model's output `outputs[0]`.
    """

    splits: dict[SplitName, Split]
    classes: Sequence[str]
    outputs: tuple[int, ...] | None = None

    def split(self, name: SplitName) -> Split:
        """The split of this name. Raises InvalidInput where the dataset has none."""
        if name not in self.splits:
            raise InvalidInput(f"the dataset has no {name} split, and this recipe needs one")
        return self.splits[name]


class DatasetPlugin(Protocol):
    """What a module in datasets/ provides."""

    REQUIRES: ClassVar[tuple[str, ...]]
    Config: ClassVar[type]

    def load(self, config: Any, root: Path, progress: Callable[[float], None]) -> Data:
        """Find the data, by default below the data folder `root`, or download it.

        `progress` is called with the fraction of a download, 0 to 1. Raises InvalidInput or Unavailable, whose message
        says what to do.
        """
        ...


def prepare(
    split: Split,
    preprocessing: Preprocessing,
    store: BlobStore,
    *,
    limit: int | None,
    seed: int,
    held_out: int | None = None,
    outputs: Sequence[int] | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> Images:
    """Decode, resize and crop a split into blobs: images uint8 [N, H, W, C] and labels int64 [N].

    Inputs that are not images are stored as they are. With a `limit`, a random subset of this many images is drawn with
    `seed`; the split's order is kept. With `held_out`, itself a seed, only the held-out part of these images is taken
    (see `split_training`). `outputs` are the model outputs that the labels index into. Resizing is PIL's with
    antialiasing, as in torchvision's transforms on PIL images.
    """
    indices = chosen(len(split.labels), limit, seed)
    if held_out is not None:
        indices = indices[np.sort(split_training(len(indices), held_out)[1])]
    labels = store.put_array(split.labels[indices].astype(np.int64))
    if split.inputs is not None:
        arrays = [store.put_array(split.inputs[one.name][indices]) for one in preprocessing.inputs]
        return Images(arrays=arrays, labels=labels, outputs=outputs)
    shape = (len(indices), preprocessing.height, preprocessing.width, preprocessing.channels)

    def one(index: np.integer[Any]) -> np.ndarray:
        return fit(split.open(int(index)), preprocessing)

    with store.writer() as out, ThreadPoolExecutor(os.cpu_count()) as pool:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(out, header)
        for start in range(0, len(indices), CHUNK):
            for image in pool.map(one, indices[start : start + CHUNK]):
                out.write(image.tobytes())
            progress(min(1.0, (start + CHUNK) / len(indices)))
    return Images(images=out.blob, labels=labels, outputs=outputs)


def chosen(count: int, limit: int | None, seed: int) -> np.ndarray:
    """The indices of a random subset of `limit` images out of `count`, drawn with the seed, ascending."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])


def fit(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """One image as uint8 [H, W, C], resized and centre-cropped for the model.

    Raises InvalidInput where the image is so elongated that it would be too large after scaling.
    """
    image = image.convert("L" if preprocessing.channels == 1 else "RGB")
    size = (preprocessing.width, preprocessing.height)
    how = RESAMPLING[preprocessing.interpolation or "bilinear"]
    if preprocessing.resize:
        short = min(image.size)
        scaled = [int(preprocessing.resize * side / short) for side in image.size]  # torchvision truncates
        if math.prod(scaled) > MOST_SCALED:
            raise InvalidInput(
                f"an image of {image.width} × {image.height} is too long to resize to {preprocessing.resize}"
            )
        image = image.resize((max(size[0], scaled[0]), max(size[1], scaled[1])), how)
        left, top = round((image.width - size[0]) / 2), round((image.height - size[1]) / 2)
        image = image.crop((left, top, left + size[0], top + size[1]))
    elif image.size != size:
        image = image.resize(size, how)
    pixels = np.asarray(image, np.uint8)
    return pixels.reshape(preprocessing.height, preprocessing.width, preprocessing.channels)


def fingerprint_files(paths: Sequence[Path], base: Path) -> str:
    """A digest of the files' names relative to `base`, sizes and modification times; their content is not read."""
    digest = hashlib.sha256()
    for path in paths:
        facts = path.stat()
        digest.update(os.fsencode(path.relative_to(base)))
        digest.update(f"\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


DATASETS = Catalog("dataset", "pqbench_orchestrator.datasets", DatasetPlugin)
