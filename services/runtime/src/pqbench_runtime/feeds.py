"""Batches that engines are run on: prepared examples, padded to the engine's batch size."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pqbench.common.v1.common_pb2 import Images
from pqbench.runtime.v1.runtime_pb2 import Engine
from pqbench.runtime.v1.worker_pb2 import Tensor
from pqbench_runtime.memory import AllMemory
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import InvalidInput
from pqbench_wire.shared.inputs import Feed, Inputs, as_feed, load_inputs


def first_batch(store: BlobStore, inputs: Images, engine: Engine) -> Feed:
    """The first batch of a prepared split as the model's input, padded where the split is smaller."""
    prepared = load_inputs(store, inputs, engine.preprocessing)[0]
    return as_feed(padded(prepared[: engine.batch_size], engine.batch_size), engine.preprocessing)


def feed_of(tensors: Iterable[Tensor], memory: AllMemory, engine: Engine) -> Feed:
    """The batch in a request's tensors: one image array, or `Inputs` for an engine that takes other inputs.

    Fewer examples than the engine takes are repeated; otherwise the arrays are views of the memory.
    """
    arrays = {tensor.name: memory.array(tensor) for tensor in tensors}
    return padded(Inputs(arrays) if engine.preprocessing.inputs else next(iter(arrays.values())), engine.batch_size)


def padded(images: Feed, size: int) -> Feed:
    """A batch of `size` examples: those given, repeated as often as needed. Raises InvalidInput without any."""
    if not len(images):
        raise InvalidInput("the prepared split has no images")
    if len(images) == size:
        return images
    if isinstance(images, Inputs):
        return Inputs({name: np.resize(array, (size, *array.shape[1:])) for name, array in images.arrays.items()})
    return np.resize(images, (size, *images.shape[1:]))
