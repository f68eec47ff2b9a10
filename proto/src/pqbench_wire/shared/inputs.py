"""Converts prepared data to model inputs, and model outputs to arrays, in the same way for all services."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pqbench.common.v1.common_pb2 import Images, Input, Preprocessing
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import InvalidInput, TooLarge


@dataclass(frozen=True)
class Inputs:
    """The inputs of a model that takes no image: arrays [N, …] by name, in the model's order."""

    arrays: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: slice | np.ndarray) -> Inputs:
        return Inputs({name: array[index] for name, array in self.arrays.items()})


Feed = np.ndarray | Inputs  # one image input [N, …], or inputs by name
MAX_VALUES = 1 << 25  # of one example: over 3300 x 3300 pixels of 3 channels
MAX_INPUTS = 64
MAX_RESIZE = 16_384  # pixels
INTERPOLATIONS = ("", "bilinear", "bicubic")


def check_preprocessing(given: Preprocessing) -> None:
    """Raise InvalidInput if preprocessing is incomplete or wrong, TooLarge if a size is beyond the bounds."""
    if given.inputs:
        _check_inputs(given.inputs)
        return
    values = given.height * given.width * given.channels
    if not values:
        raise InvalidInput("preprocessing needs height, width and channels, or inputs")
    if values > MAX_VALUES or given.resize > MAX_RESIZE:
        raise TooLarge(
            f"an image of {given.height} x {given.width} x {given.channels}, resized to {given.resize}: "
            f"at most {MAX_VALUES} values and a resize of {MAX_RESIZE}"
        )
    if not len(given.mean) == len(given.std) == given.channels:
        raise InvalidInput(
            f"preprocessing: {len(given.mean)} mean and {len(given.std)} std values; needed: {given.channels} each"
        )
    if not (np.isfinite(given.mean).all() and np.isfinite(given.std).all() and min(given.std) > 0):
        raise InvalidInput("preprocessing: mean and std must be finite, std above 0")
    if given.interpolation not in INTERPOLATIONS:
        raise InvalidInput(f"interpolation is {given.interpolation[:80]!r}; known: bilinear, bicubic")


def _check_inputs(inputs: Sequence[Input]) -> None:
    names = [one.name for one in inputs]
    if len(names) > MAX_INPUTS:
        raise TooLarge(f"{len(names)} inputs; at most {MAX_INPUTS}")
    if len(set(names)) < len(names) or not all(names):
        raise InvalidInput("input names must be unique and not empty")
    for one in inputs:
        if not _is_number(one.dtype):
            raise InvalidInput(f"input {one.name[:80]}: {one.dtype[:80]!r} is not a numeric dtype such as float32")
    if (values := sum(math.prod(one.shape) for one in inputs)) > MAX_VALUES:
        raise TooLarge(f"the inputs have {values} values for one example; at most {MAX_VALUES}")


def _is_number(dtype: str) -> bool:
    try:
        return np.dtype(dtype).kind in "biuf"
    except TypeError:
        return False


def as_feed(prepared: Feed, preprocessing: Preprocessing) -> Feed:
    """Prepared data as a model's input: images normalised, other inputs copied as they are."""
    if isinstance(prepared, Inputs):
        return Inputs({name: np.array(array) for name, array in prepared.arrays.items()})  # the file is read-only
    return normalise(prepared, preprocessing)


def normalise(images: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """uint8 [N, H, W, C] to float32 [N, C, H, W]: scaled to [0, 1], minus mean, divided by std, per channel."""
    expected = (preprocessing.height, preprocessing.width, preprocessing.channels)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
        raise InvalidInput(f"images are {images.dtype} {list(images.shape)}, expected uint8 [N, {expected}]")
    std = np.asarray(preprocessing.std, np.float32)
    scale = (1 / (255 * std)).astype(np.float32)
    shift = (-np.asarray(preprocessing.mean, np.float32) / std).astype(np.float32)
    # Copied into a new array: with one channel, a view would keep strides that PyTorch takes for channels-last.
    planes = np.empty((len(images), images.shape[3], *images.shape[1:3]), np.float32)
    planes[...] = (images * scale + shift).transpose(0, 3, 1, 2)
    return planes


def load_inputs(store: BlobStore, images: Images, preprocessing: Preprocessing) -> tuple[Feed, np.ndarray]:
    """A prepared split, memory-mapped: images uint8 [N, H, W, C] or other inputs, and labels int64 [N]."""
    labels = store.array(images.labels)
    if preprocessing.inputs:
        return _other_inputs(store, images, preprocessing, len(labels)), labels
    pixels = store.array(images.images)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or labels.shape != pixels.shape[:1]:
        raise InvalidInput(f"not a prepared split: {pixels.dtype} {pixels.shape}, labels {labels.shape}")
    return pixels, labels


def store_inputs(store: BlobStore, feed: Feed) -> Images:
    """Store data such that `load_inputs` reads it back; the labels are zeros, as nothing is scored with it."""
    labels = store.put_array(np.zeros(len(feed), np.int64))
    if isinstance(feed, Inputs):
        return Images(arrays=[store.put_array(array) for array in feed.arrays.values()], labels=labels)
    return Images(images=store.put_array(feed), labels=labels)


def _other_inputs(store: BlobStore, images: Images, preprocessing: Preprocessing, count: int) -> Inputs:
    if len(images.arrays) != len(preprocessing.inputs):
        raise InvalidInput(f"the split has {len(images.arrays)} inputs, the model takes {len(preprocessing.inputs)}")
    arrays = {i.name: store.array(blob) for i, blob in zip(preprocessing.inputs, images.arrays, strict=True)}
    for given in preprocessing.inputs:
        check_input(given, arrays[given.name], count)
    return Inputs(arrays)


def check_input(wanted: Input, array: np.ndarray, count: int) -> None:
    """Raise InvalidInput if an array has not the type and shape of `count` examples of an input."""
    shape = [count, *wanted.shape]
    if array.dtype != np.dtype(wanted.dtype) or list(array.shape) != shape:
        raise InvalidInput(
            f"input {wanted.name} is {array.dtype} {list(array.shape)}, the model takes {wanted.dtype} {shape}"
        )


def named(feed: Feed, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Inputs by a graph's input names: an image under the only name, other inputs under their own names.

    Raises InvalidInput if the names do not match.
    """
    if isinstance(feed, np.ndarray):
        if len(names) != 1:
            raise InvalidInput(f"the model has the inputs {', '.join(names)}; name them in the manifest's inputs")
        return {names[0]: feed}
    if set(names) != set(feed.arrays):
        raise InvalidInput(f"the model has the inputs {', '.join(names)}, it is given {', '.join(feed.arrays)}")
    return dict(feed.arrays)


def flat(outputs: Sequence[np.ndarray]) -> np.ndarray:
    """A model's outputs [N, …] side by side as float32 [N, values]; a classifier's [N, classes] keep their shape."""
    parts = [np.asarray(output, np.float32).reshape(len(output), -1) for output in outputs]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
