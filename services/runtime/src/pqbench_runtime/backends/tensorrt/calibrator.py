"""Feeds calibration examples to TensorRT's own INT8 calibration (versions up to 10)."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorrt as trt

from pqbench_runtime.backend import Shape
from pqbench_runtime.backends.tensorrt.options import Config
from pqbench_runtime.cuda import Stream, Tensor
from pqbench_wire.errors import Failed, InvalidInput
from pqbench_wire.shared.inputs import Feed, as_feed, named


def calibrator(images: Feed, shape: Shape, options: Config) -> Any:
    """TensorRT's calibrator of the chosen kind, which gets `images` batch by batch.

    Raises InvalidInput for fewer images than one batch.
    """
    kind = trt.IInt8EntropyCalibrator2 if options.calibrator == "entropy" else trt.IInt8MinMaxCalibrator
    batch = shape.batch
    if len(images) < batch:
        raise InvalidInput(f"calibration needs at least one batch of {batch} images, there are {len(images)}")
    stream = Stream()
    tensors: dict[str, Tensor] = {}

    class Calibrator(kind):  # type: ignore[misc, valid-type]  # the base class depends on the options
        """Gives whole batches only, because calibration runs at one batch size; images beyond them are not used."""

        count = len(images) // batch * batch

        def __init__(self) -> None:
            kind.__init__(self)
            self._next = 0

        def get_batch_size(self) -> int:
            return batch

        def get_batch(self, names: list[str]) -> list[int] | None:
            if self._next >= self.count:
                return None
            part = as_feed(images[self._next : self._next + batch], shape.preprocessing)
            self._next += batch
            return [_upload(tensors, name, array, stream) for name, array in named(part, list(names)).items()]

        def read_calibration_cache(self) -> None:
            """Returns None: ranges are never reused between models."""

        def write_calibration_cache(self, cache: object) -> None:
            """Keeps nothing: the plan holds the ranges."""

    return Calibrator()


def _upload(tensors: dict[str, Tensor], name: str, array: np.ndarray, stream: Stream) -> int:
    if name not in tensors:
        tensors[name] = Tensor(array.shape, array.dtype)
    tensor = tensors[name]
    np.copyto(tensor.host, array)
    tensor.upload(stream)
    stream.synchronize()
    if tensor.device.value is None:
        raise Failed("the calibration buffer is gone")
    return tensor.device.value
