"""Between NumPy and PyTorch: a model's inputs as tensors, its outputs as one array."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from pqbench_wire.inputs import Feed, Inputs, flat

ANY_BATCH = torch.export.Dim("batch", min=1, max=65536)


def tensors(feed: Feed) -> tuple[torch.Tensor, ...]:
    """The positional arguments of a model: copies, since a model may write into its inputs."""
    arrays = feed.arrays.values() if isinstance(feed, Inputs) else (feed,)
    return tuple(_copied(torch.from_numpy(array)) for array in arrays)


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    """In plain order of memory: an axis of length one may come with strides that stand for channels-last."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)


def names(feed: Feed) -> list[str]:
    """What the inputs are called in ONNX."""
    return list(feed.arrays) if isinstance(feed, Inputs) else ["input"]


def dynamic_batch(feed: Feed) -> Any:
    """For torch.export: the first axis of every input may vary."""
    return tuple({0: ANY_BATCH} for _ in names(feed))


def batches(feed: Feed, size: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """The arguments, `size` examples at a time."""
    for start in range(0, len(feed), size):
        yield tensors(feed[start : start + size])


@contextmanager
def plain_attention() -> Iterator[None]:
    """PyTorch's attention as separate operators: without gradients it would run as one that nothing can see into."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def outputs_of(module: nn.Module, feed: Feed) -> list[torch.Tensor]:
    """Every tensor that a model returns, in whatever tuples or dictionaries it packs them."""
    return leaves(module(*tensors(feed)))


def leaves(outputs: Any) -> list[torch.Tensor]:
    """The tensors in an output."""
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]


def flattened(outputs: Any) -> np.ndarray:
    """A model's output as float32 [N, values]."""
    return flat([leaf.float().numpy() for leaf in leaves(outputs)])
