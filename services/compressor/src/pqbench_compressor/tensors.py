"""Conversion between NumPy and PyTorch: a model's inputs as tensors, its outputs as one array."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from pqbench_wire.shared.inputs import Feed, Inputs, flat

ANY_BATCH = torch.export.Dim("batch", min=1, max=65536)


def tensors(feed: Feed) -> tuple[torch.Tensor, ...]:
    """The inputs as positional arguments of a model; they are copies, since a model may write into its inputs."""
    arrays = feed.arrays.values() if isinstance(feed, Inputs) else (feed,)
    return tuple(_copied(torch.from_numpy(array)) for array in arrays)


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    """A contiguous copy: with an axis of length one, PyTorch could take the array's strides for channels-last."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)


def names(feed: Feed) -> list[str]:
    """The names of the inputs in the exported ONNX model; an image input is called "input"."""
    return list(feed.arrays) if isinstance(feed, Inputs) else ["input"]


def dynamic_batch(feed: Feed) -> Any:
    """The `dynamic_shapes` for torch.export: the first axis of every input is a free batch axis."""
    return tuple({0: ANY_BATCH} for _ in names(feed))


def batches(feed: Feed, size: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """A model's positional arguments in batches of `size` examples; the last batch may be smaller."""
    for start in range(0, len(feed), size):
        yield tensors(feed[start : start + size])


@contextmanager
def plain_attention() -> Iterator[None]:
    """Run attention as separate operators, so that the FLOP counter and quantizers see its matrix products.

    Without gradients, PyTorch would otherwise run it as one fused operator.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def outputs_of(module: nn.Module, feed: Feed) -> list[torch.Tensor]:
    """All tensors that a model returns for its inputs, also those in nested tuples, lists and dictionaries."""
    return leaves(module(*tensors(feed)))


def leaves(outputs: Any) -> list[torch.Tensor]:
    """The tensors in a model's output, also those in nested tuples, lists and dictionaries."""
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]


def flattened(outputs: Any) -> np.ndarray:
    """All tensors of a model's output side by side, as float32 [N, values]."""
    return flat([leaf.float().numpy() for leaf in leaves(outputs)])
