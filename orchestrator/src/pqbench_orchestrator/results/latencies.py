"""The time of each layer on a target as a fixed part and one in proportion to its multiply-accumulates.

Fitted to the profiles of cells in which layers have different widths. With a single width there is nothing to tell the
parts from each other: all of the time is then taken to be proportional.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format

from pqbench.compressor.v1.compressor_pb2 import CompressResult, Statistics
from pqbench.runtime.v1.runtime_pb2 import LayerTime, ProfileResult
from pqbench_wire.errors import InvalidInput
from pqbench_wire.shared.layer_names import layer_of

FEWEST = 4  # cells for which an error of cells left out is computed
MICROSECONDS = 1e6


@dataclass(frozen=True, kw_only=True)
class Profiled:
    """A cell's profile, and the statistics of its model and of the unpruned one."""

    layers: Sequence[LayerTime]
    pruned: Statistics
    unpruned: Statistics


def profiled(results: Mapping[str, dict[str, Any]]) -> Profiled:
    """What is needed of the results of a cell's steps by role, among them `profile`; the baseline is unpruned."""
    pruned = json_format.ParseDict(results["variant"], CompressResult()).statistics
    unpruned = (
        json_format.ParseDict(results["unpruned"], CompressResult()).statistics if "unpruned" in results else pruned
    )
    layers = json_format.ParseDict(results["profile"], ProfileResult()).layers
    return Profiled(layers=layers, pruned=pruned, unpruned=unpruned)


@dataclass(frozen=True, kw_only=True)
class Line:
    """The time of a layer in microseconds: `fixed`, and `scaled` at its full width, which falls with its MACs."""

    fixed: float
    scaled: float

    def at(self, share: float) -> float:
        """The time with a share of the layer's multiply-accumulates."""
        return self.fixed + self.scaled * share


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The lines by layer, and how well they predict."""

    lines: Mapping[str, Line]
    cells: int
    error: float | None  # median error of the time of a cell's layers without fitting to it, relative; None: few cells

    @property
    def summary(self) -> str:
        """What they were fitted to, and how well they predict, in words."""
        error = "" if self.error is None else f"; cells left out: layers' time within {self.error:.1%} (median)"
        return f"fitted to {self.cells} cell{'s' if self.cells > 1 else ''}{error}"

    def as_option(self) -> dict[str, float | dict[str, float]]:
        """As a step's `latencies` are written in a manifest: a number where all of the time is proportional."""
        rounded = {name: (round(line.fixed, 1), round(line.scaled, 1)) for name, line in self.lines.items()}
        return {
            name: {"fixed": fixed, "scaled": scaled} if fixed else scaled for name, (fixed, scaled) in rounded.items()
        }


def fit(cells: Sequence[Profiled]) -> Fit:
    """Fit a line for each layer to all cells. Raises InvalidInput where no profile names a layer of the model."""
    points = [found for cell in cells if (found := _points(cell))]
    if not points:
        raise InvalidInput("no profile of these cells names a layer of the model: this profiler names operators")
    errors = []
    for index, left_out in enumerate(points) if len(points) >= FEWEST else ():
        lines = _lines([*points[:index], *points[index + 1 :]])
        known = {name: point for name, point in left_out.items() if name in lines}
        measured = sum(time for _, time in known.values())
        predicted = sum(lines[name].at(share) for name, (share, _) in known.items())
        errors += [abs(predicted - measured) / measured] if measured else []
    return Fit(lines=_lines(points), cells=len(points), error=statistics.median(errors) if errors else None)


def _points(cell: Profiled) -> dict[str, tuple[float, float]]:
    """The share of its multiply-accumulates that each layer has left, and its time in microseconds."""
    whole = {layer.name: layer.macs for layer in cell.unpruned.layers}
    left = {layer.name: layer.macs / whole[layer.name] for layer in cell.pruned.layers if whole.get(layer.name)}
    times: dict[str, float] = defaultdict(float)
    for entry in cell.layers:
        if (name := layer_of(entry.name, left)) is not None:
            times[name] += entry.seconds * MICROSECONDS
    return {name: (left[name], time) for name, time in times.items()}


def _lines(cells: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, Line]:
    by_layer: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for cell in cells:
        for name, point in cell.items():
            by_layer[name].append(point)
    return {name: _line(points) for name, points in by_layer.items()}


def _line(points: Sequence[tuple[float, float]]) -> Line:
    """The least squares line through points (share, time), without negative parts."""
    shares, times = zip(*points, strict=True)
    squares = sum(share * share for share in shares)
    proportional = Line(fixed=0.0, scaled=sum(share * time for share, time in points) / squares if squares else 0.0)
    if len(set(shares)) < 2:
        return proportional
    slope, intercept = statistics.linear_regression(shares, times)
    if slope <= 0:
        return Line(fixed=statistics.fmean(times), scaled=0.0)
    return Line(fixed=intercept, scaled=slope) if intercept > 0 else proportional
