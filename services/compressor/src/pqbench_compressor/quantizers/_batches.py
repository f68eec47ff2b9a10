"""Calibration images for vendor tools, in whole batches: some of their histograms cannot handle a smaller last one."""

from __future__ import annotations

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader

from pqbench_compressor.onnx_check import fixed_batch
from pqbench_wire.shared.inputs import Feed, named

BATCH = 32  # images


def whole_batches(model: onnx.ModelProto, inputs: Feed) -> tuple[list[dict[str, np.ndarray]], int]:
    """Batches of inputs by name, of the model's fixed size or BATCH, and how many images they have.

    With fewer images than that, there is one batch of them all.
    """
    names, batch = [one.name for one in model.graph.input], fixed_batch(model.graph.input) or BATCH
    size = min(batch, len(inputs))
    used = len(inputs) // size * size
    return [named(inputs[start : start + size], names) for start in range(0, used, size)], used


class Reader(CalibrationDataReader):
    """Batches as ONNX Runtime's quantizer, and those after its pattern, ask for them."""

    def __init__(self, feeds: list[dict[str, np.ndarray]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch by input, or None at the end."""
        return next(self._feeds, None)
