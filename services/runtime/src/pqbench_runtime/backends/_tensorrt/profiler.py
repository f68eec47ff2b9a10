"""Times of an engine's layers, which TensorRT reports to a profiler while it runs without a CUDA graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pqbench_runtime.backend import UNKNOWN, Layer, LayerTime


def profiler(trt: Any) -> Any:
    """A profiler whose `milliseconds` are added up by layer, in the order of execution."""

    class Profiler(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.milliseconds: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            """Called by TensorRT for each layer in each call."""
            self.milliseconds[layer_name] = self.milliseconds.get(layer_name, 0.0) + ms

    return Profiler()


def layer_times(milliseconds: Mapping[str, float], calls: int, known: Sequence[Layer]) -> list[LayerTime]:
    """The layers' mean times over `calls`, with types, precisions and kernels from the inspector's layers."""
    details = {layer.name: layer for layer in known}
    return [_layer_time(name, ms / 1e3 / calls, details.get(name)) for name, ms in milliseconds.items()]


def _layer_time(name: str, seconds: float, layer: Layer | None) -> LayerTime:
    """One layer's time; reformat layers that the builder adds are known to the profiler only, not to the inspector."""
    if layer is None:
        kind = "Reformat" if "reformat" in name.lower() else ""
        return LayerTime(name=name, type=kind, precision=UNKNOWN, compute=False, seconds=seconds)
    return LayerTime(
        name=name,
        type=layer.type,
        precision=layer.precision,
        compute=layer.compute,
        seconds=seconds,
        provider=layer.tactic,
    )
