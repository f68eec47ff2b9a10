"""Your own data: `path/to/file.py:function`, where the function returns the data and labels of each split.

It returns {"test": (data, labels), "train": (data, labels)}; train may be absent, labels may be None.
`data` is uint8 images [N, H, W, 1 or 3], a list of PIL images or, for a model that takes something else,
arrays [N, …] by name. The file runs in the orchestrator's process, and only with --allow-code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
from PIL import Image
from pydantic import Field

from pqbench_orchestrator.dataset import Data, PathText, Split, SplitName
from pqbench_wire.errors import InvalidInput
from pqbench_wire.shared import own_code

REQUIRES = ()


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which function to call, with which arguments."""

    function: Annotated[PathText, Field(description="path/to/file.py:function")]
    arguments: Annotated[dict[str, Any], Field(description="keyword arguments of the function")] = field(
        default_factory=dict
    )


def load(config: Config, root: Path, progress: Callable[[float], None] = lambda _: None) -> Data:
    path, _, name = config.function.rpartition(":")
    if not Path(path).is_file():
        raise InvalidInput(f"dataset {name}: there is no file {path}")
    # The survey has checked --allow-code.
    function = own_code.load(Path(path), name, allowed=True, arguments=config.arguments)
    returned = own_code.called(f"dataset function {name}", function, **config.arguments)
    if not isinstance(returned, Mapping) or "test" not in returned or set(returned) - {"test", "train"}:
        raise InvalidInput(f'dataset function {name} must return {{"test": (data, labels), "train": …}}')
    parts = {split: _pair(f"dataset function {name}: {split}", value) for split, value in returned.items()}
    splits = {split: _split(f"dataset function {name}: {split}", *pair) for split, pair in parts.items()}
    count = 1 + max(int(split.labels.max()) for split in splits.values())
    return Data(splits=cast(dict[SplitName, Split], splits), classes=[str(index) for index in range(count)])


def _pair(where: str, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, tuple) or len(value) != 2:
        raise InvalidInput(f"{where}: must be a pair (data, labels); labels may be None")
    return value


def _split(where: str, data: Any, labels: Any) -> Split:
    inputs = {str(name): np.asarray(array) for name, array in data.items()} if isinstance(data, Mapping) else None
    images: Sequence[Image.Image] = [] if inputs is not None else _images(where, data)
    counts = {len(array) if array.ndim else 0 for array in inputs.values()} if inputs else {len(images)}
    count = counts.pop() if len(counts) == 1 else 0
    numbers = np.zeros(count, np.int64) if labels is None else np.asarray(labels)
    fits = numbers.shape == (count,) and np.issubdtype(numbers.dtype, np.integer)
    if not count or not fits or numbers.min() < 0:
        raise InvalidInput(f"{where}: data and labels must have equal lengths, labels must be integers from 0")
    return Split(
        open=lambda i: images[i], labels=numbers.astype(np.int64), fingerprint=_digest(inputs, images, numbers),
        inputs=inputs, labelled=labels is not None,
    )  # fmt: skip


def _images(where: str, data: Any) -> Sequence[Image.Image]:
    if isinstance(data, np.ndarray):
        if data.dtype != np.uint8 or data.ndim != 4 or data.shape[3] not in (1, 3):
            raise InvalidInput(f"{where}: images are uint8 [N, H, W, 1 or 3], got {data.dtype} {list(data.shape)}")
        return [Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image) for image in data]
    if not isinstance(data, Sequence) or not all(isinstance(image, Image.Image) for image in data):
        raise InvalidInput(f"{where}: data must be an array of images, a list of PIL images or a dict of arrays")
    return data


def _digest(inputs: Mapping[str, np.ndarray] | None, images: Sequence[Image.Image], labels: np.ndarray) -> str:
    """The fingerprint of a split, from its content: data that a function returns have no modification time."""
    digest = hashlib.sha256(labels.tobytes())
    for name, array in (inputs or {}).items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    for image in images:
        digest.update(f"{image.mode} {image.size}".encode())
        digest.update(image.tobytes())
    return digest.hexdigest()
