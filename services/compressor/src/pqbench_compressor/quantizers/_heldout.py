"""Choices by accuracy, on training images that neither calibrate nor score."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from pqbench_compressor import export
from pqbench_compressor.plugins import Context

FEW = 64  # images: enough to rank layers by the noise they add


class HeldOut:
    """A model's FP32 answers on held-out training images."""

    def __init__(self, model: bytes, context: Context, count: int) -> None:
        self._inputs, self._labels = context.training.held_out(count, context.seed)
        self._reference = export.run_fast(model, self._inputs)
        self._baseline = _accuracy(self._reference, self._labels)

    def drop(self, model: bytes) -> float:
        """Percentage points that a model is below FP32; negative where it is above."""
        return self._baseline - _accuracy(export.run_fast(model, self._inputs), self._labels)

    def sqnr(self, model: bytes, count: int | None = None) -> float:
        """Signal-to-noise of a model's outputs in dB, on the first `count` images."""
        return export.sqnr(self._reference[:count], export.run_fast(model, self._inputs[:count]))


def fewest(
    layers: list[str], make: Callable[[list[str]], bytes], held_out: HeldOut, max_drop: float, context: Context
) -> list[str]:
    """The fewest layers, noisiest first, that must stay in FP32 for a drop of at most `max_drop` points.

    `make(kept)` quantizes all other layers. Layers are ranked by the noise that each adds when it
    alone is quantized; how many is found by bisection.
    """
    if held_out.drop(make([])) <= max_drop:
        return []
    noise = []
    for index, layer in enumerate(layers):
        others = [name for name in layers if name != layer]
        noise.append(held_out.sqnr(make(others), FEW))
        context.report("rank layers", (index + 1) / len(layers), layer)
    ranked = [layers[i] for i in np.argsort(noise)]
    enough, few = len(layers) - 1, 0
    for step in range(math.ceil(math.log2(max(2, len(layers))))):
        middle = (few + enough + 1) // 2
        if enough - few <= 1:
            break
        drop = held_out.drop(make(ranked[:middle]))
        context.report("choose layers", (step + 1) / 10, f"{middle} in FP32: {drop:+.2f} points lost")
        few, enough = (few, middle) if drop <= max_drop else (middle, enough)
    return ranked[:enough]


def _accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    return 100 * float(np.mean(outputs.argmax(1) == labels))
