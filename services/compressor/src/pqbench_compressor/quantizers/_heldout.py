"""Choices by accuracy, made on held-out training images: no step calibrates or trains on them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pqbench_compressor import export
from pqbench_compressor.plugins import Context
from pqbench_wire.errors import Refused

FEW = 64  # images: enough to rank layers by the noise they add


class HeldOut:
    """Compares quantized models with their FP32 model on at most `count` held-out training images."""

    def __init__(self, model: bytes, context: Context, count: int) -> None:
        self._training = context.training
        self._inputs, self._labels = context.training.held_out(count, context.seed)
        self._reference = export.run_fast(model, self._inputs)

    def drop(self, model: bytes) -> float:
        """The accuracy that a model loses against FP32, in percentage points; negative if it gains."""
        outputs = export.run_fast(model, self._inputs)
        accuracy = self._training.accuracy
        return accuracy(self._reference, self._labels) - accuracy(outputs, self._labels)

    def sqnr(self, model: bytes, count: int | None = None) -> float:
        """Signal-to-noise ratio of a model's outputs against FP32, in dB, on the first `count` images (None: all)."""
        return export.sqnr(self._reference[:count], export.run_fast(model, self._inputs[:count]))


Kept = list[str]  # names of layers that stay in FP32


def fewest(
    layers: list[str],
    drop: Callable[[Kept], float],
    fidelity: Callable[[Kept], float],
    max_drop: float,
    context: Context,
) -> Kept:
    """The fewest layers, noisiest first, that must stay in FP32 for a drop of at most `max_drop` points.

    With the given layers in FP32, `drop` returns the accuracy lost in percentage points, and `fidelity` the
    signal-to-noise ratio in dB. Layers are ranked by the noise that each adds when it alone is quantized; their
    number is found by bisection. Raises Refused if even all layers but one are not enough.
    """
    if drop([]) <= max_drop:
        return []
    noise = []
    for index, layer in enumerate(layers):
        noise.append(fidelity([name for name in layers if name != layer]))
        context.report("rank layers", (index + 1) / len(layers), layer)
    ranked = [layers[i] for i in np.argsort(noise)]
    few, enough = 0, len(layers) - 1
    least = drop(ranked[:enough])
    if least > max_drop:
        raise Refused(f"with all layers but one in FP32, {least:.2f} points are still lost; max_drop is {max_drop:g}")
    while enough - few > 1:
        middle = (few + enough) // 2
        lost = drop(ranked[:middle])
        context.report("choose layers", 1 - (enough - few) / len(layers), f"{middle} in FP32: {lost:+.2f} points lost")
        few, enough = (few, middle) if lost <= max_drop else (middle, enough)
    return ranked[:enough]
