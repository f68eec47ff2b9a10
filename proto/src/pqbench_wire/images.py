"""From prepared images to a model's input, the same for calibration, verification and engines."""

from __future__ import annotations

import numpy as np

from pqbench.common.v1.common_pb2 import Images, Preprocessing
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import InvalidInput


def normalise(images: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """uint8 [N, H, W, C] to float32 [N, C, H, W]: scaled to [0, 1], minus mean, over std, per channel."""
    expected = (preprocessing.height, preprocessing.width, preprocessing.channels)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
        raise InvalidInput(f"images are {images.dtype} {list(images.shape)}, expected uint8 [N, {expected}]")
    std = np.asarray(preprocessing.std, np.float32)
    scale = (1 / (255 * std)).astype(np.float32)
    shift = (-np.asarray(preprocessing.mean, np.float32) / std).astype(np.float32)
    return np.ascontiguousarray((images * scale + shift).transpose(0, 3, 1, 2), np.float32)


def load_images(store: BlobStore, images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Memory-mapped images uint8 [N, H, W, C] and labels int64 [N] of a prepared split."""
    pixels, labels = store.array(images.images), store.array(images.labels)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or labels.shape != pixels.shape[:1]:
        raise InvalidInput(f"not a prepared split: {pixels.dtype} {pixels.shape}, labels {labels.shape}")
    return pixels, labels
