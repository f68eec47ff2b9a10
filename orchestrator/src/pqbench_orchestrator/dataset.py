"""What a dataset is, and preparing it once: decoded, resized, uint8, memory-mapped, content-addressed."""

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
from pqbench_wire.inputs import split_training

SplitName = Literal["train", "test"]
MOST_SCALED = 1 << 28  # pixels of a picture that is scaled before it is cropped
CHUNK = 256  # images decoded between two reports of progress
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class IsPath:
    """Marks the text of a configuration that names a file or folder: in a manifest, relative to its file."""


PathText = Annotated[str, IsPath()]


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images that are decoded on demand.

    `open(i)` returns image i as a PIL image of any size; `labels` is int64 [N]; `fingerprint`
    changes when the data does. Data that are no images are `inputs`: arrays [N, …] by name.
    """

    open: Callable[[int], Image.Image]
    labels: np.ndarray
    fingerprint: str
    labelled: bool = True  # else a model is compared with its baseline only
    inputs: Mapping[str, np.ndarray] | None = None
    notes: tuple[str, ...] = ()  # what whoever named the data should know, such as files that were skipped


@dataclass(frozen=True, kw_only=True)
class Data:
    """A dataset: its splits and, for a subset of a larger label set, the outputs to score on.

    With `outputs` given, labels index into it: label 0 is the model's output `outputs[0]`.
    """

    splits: dict[SplitName, Split]
    classes: Sequence[str]
    outputs: tuple[int, ...] | None = None

    def split(self, name: SplitName) -> Split:
        """A split. Raises InvalidInput where the dataset has none of that name."""
        if name not in self.splits:
            raise InvalidInput(f"the dataset has no {name} split, and this recipe needs one")
        return self.splits[name]


class DatasetPlugin(Protocol):
    """A kind of dataset."""

    REQUIRES: ClassVar[tuple[str, ...]]
    Config: ClassVar[type]

    def load(self, config: Any, root: Path, progress: Callable[[float], None]) -> Data:
        """Find the data (below `root` where nothing else is said), or download it.

        `progress` is told the fraction of a download. Raises InvalidInput or Unavailable with what to do.
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
    """Decode, resize and crop a split once into blobs uint8 [N, H, W, C] and int64 [N]; other inputs stay as they are.

    `outputs` are the model's, into which the labels index. With a `limit`, a seeded random choice of
    images, in the split's order. Resizing is PIL's with
    antialiasing, as torchvision's transforms on PIL images do it.
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
    """The indices of a seeded choice of `limit` images out of `count`, ascending."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])


def fit(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """One image as uint8 [H, W, C]: resized and centre-cropped as the model wants it."""
    image = image.convert("L" if preprocessing.channels == 1 else "RGB")
    size = (preprocessing.width, preprocessing.height)
    how = RESAMPLING[preprocessing.interpolation or "bilinear"]
    if preprocessing.resize:
        short = min(image.size)
        scaled = [int(preprocessing.resize * side / short) for side in image.size]  # torchvision truncates
        if math.prod(scaled) > MOST_SCALED:
            raise InvalidInput(
                f"a picture of {image.width} × {image.height} is too long to scale to {preprocessing.resize}"
            )
        image = image.resize((max(size[0], scaled[0]), max(size[1], scaled[1])), how)
        left, top = round((image.width - size[0]) / 2), round((image.height - size[1]) / 2)
        image = image.crop((left, top, left + size[0], top + size[1]))
    elif image.size != size:
        image = image.resize(size, how)
    pixels = np.asarray(image, np.uint8)
    return pixels.reshape(preprocessing.height, preprocessing.width, preprocessing.channels)


def fingerprint_files(paths: Sequence[Path], base: Path) -> str:
    """A digest of names, sizes and modification times: cheap, and it changes when a file does."""
    digest = hashlib.sha256()
    for path in paths:
        facts = path.stat()
        digest.update(os.fsencode(path.relative_to(base)))
        digest.update(f"\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


DATASETS = Catalog("dataset", "pqbench_orchestrator.datasets", DatasetPlugin)
