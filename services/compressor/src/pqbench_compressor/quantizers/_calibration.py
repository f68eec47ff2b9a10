"""Activation ranges from training images: one pass collects extremes and channel statistics, one histograms.

| method | range |
| --- | --- |
| min-max | all values that occurred |
| percentile | without the values beyond a percentile at each end (Wu et al., arXiv 2004.09602) |
| entropy | least Kullback-Leibler divergence from the original (Migacz, GTC 2017) |
| mse | least mean squared error after quantization (Nagel et al., arXiv 2106.08295) |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import torch

from pqbench_compressor.export import feed_of, fixed_batch, in_batches
from pqbench_compressor.plugins import Report
from pqbench_wire.errors import Failed, OutOfMemory
from pqbench_wire.shared.inputs import Feed

Method = Literal["min-max", "percentile", "entropy", "mse"]
BINS = 2048
LARGEST_BATCH = 32
MEMORY_SHARE = 0.4  # of the machine's available memory that one batch of activations may take
CANDIDATES = 100  # ranges that the method mse compares


@dataclass
class Activation:
    """Statistics of one tensor."""

    low: float = np.inf
    high: float = -np.inf
    channel_max: np.ndarray | None = None  # largest magnitude, by channel
    channel_sum: np.ndarray | None = None  # float64 sum, by channel
    positions: int = 0  # number of values in each channel
    histogram: np.ndarray = field(default_factory=lambda: np.zeros(BINS))  # of BINS equal bins over [low, high]

    @property
    def channel_mean(self) -> np.ndarray:
        """Mean of each channel."""
        assert self.channel_sum is not None
        return self.channel_sum / self.positions


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Statistics by tensor name, the number of images they come from, and the batch size used."""

    activations: dict[str, Activation]
    images: int
    batch: int

    def range(self, name: str, method: Method, percentile: float) -> tuple[float, float]:
        """(low, high) of a tensor; high > low, and 0 lies within."""
        found = self.activations[name]
        if found.high < found.low:  # the tensor was always empty
            return 0.0, 1e-6
        constant = found.high == found.low
        low, high = (found.low, found.high) if constant else RANGES[method](found, percentile)
        low, high = min(0.0, low), max(0.0, high)
        return (low, high) if high > low else (0.0, 1e-6)


def collect(model: bytes, tensors: Mapping[str, int | None], inputs: Feed, report: Report) -> Calibration:
    """Run `inputs` through an ONNX model and collect statistics of `tensors`: name -> channel axis, or None.

    If a batch does not fit into memory, it is halved and this is reported. Raises OutOfMemory if a single
    image does not fit, Failed if a value is not a number.
    """
    batch = LARGEST_BATCH
    while True:
        try:
            return collect_in_batches(model, tensors, inputs, batch, report)
        except (MemoryError, RuntimeError, onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException) as error:
            if not _is_out_of_memory(error):
                raise
            if batch == 1:
                raise OutOfMemory("calibration: one image at a time does not fit into memory") from error
            batch //= 2
            report("calibrate", 0, f"out of memory; going on with batches of {batch}")


def extremes(model: bytes, tensors: Iterable[str], inputs: Feed) -> dict[str, tuple[float, float]]:
    """The smallest and largest finite value of each tensor over `inputs`, which are run one image at a time."""
    watched = list(tensors)
    session, names = watching(model, watched)
    seen = dict.fromkeys(watched, (np.inf, -np.inf))
    for part in in_batches(session, inputs, 1):
        for name, array in zip(watched, session.run(names, feed_of(session, part)), strict=True):
            low, high = seen[name]
            finite = array[np.isfinite(array)]
            if finite.size:
                seen[name] = (min(low, float(finite.min())), max(high, float(finite.max())))
    return seen


def collect_in_batches(
    model: bytes, tensors: Mapping[str, int | None], inputs: Feed, batch: int, report: Report
) -> Calibration:
    """The statistics, from batches of `batch` inputs; raises what the runtime raises where they do not fit."""
    activations = {name: Activation() for name in tensors}
    if not tensors:
        return Calibration(activations=activations, images=len(inputs), batch=batch)
    session, names = watching(model, list(tensors))
    batch = largest_batch(session, names, inputs, batch)
    rounds = 2 * -(-len(inputs) // batch)
    done = 0
    for observe in (_extremes, _histogram):
        for part in in_batches(session, inputs, batch):
            for name, array in zip(tensors, session.run(names, feed_of(session, part)), strict=True):
                observe(activations[name], _finite(name, np.asarray(array, np.float32)), tensors[name])
            done += 1
            report("calibrate", done / rounds, f"{len(inputs)} images, {batch} at a time")
    return Calibration(activations=activations, images=len(inputs), batch=batch)


def watching(model: bytes, tensors: list[str]) -> tuple[onnxruntime.InferenceSession, list[str]]:
    """A session that also gives inner tensors of the model, and their names among its outputs."""
    augmented = onnx.load_from_string(model)
    known = {o.name for o in augmented.graph.output}
    inputs = {i.name for i in augmented.graph.input}
    watched = [name for name in tensors if name not in inputs]
    augmented.graph.output.extend(onnx.ValueInfoProto(name=name) for name in watched if name not in known)
    for name in (name for name in tensors if name in inputs):  # an input cannot be an output: copy it
        copy = f"{name}#watched"
        augmented.graph.node.append(onnx.helper.make_node("Identity", [name], [copy]))
        augmented.graph.output.append(onnx.ValueInfoProto(name=copy))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(augmented.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session, [f"{name}#watched" if name in inputs else name for name in tensors]


def largest_batch(session: onnxruntime.InferenceSession, names: list[str], inputs: Feed, batch: int) -> int:
    """The largest batch, at most `batch`, whose watched activations take no more than MEMORY_SHARE of the memory.

    For a model whose batch size is fixed, that.
    """
    one = next(in_batches(session, inputs, 1))
    bytes_each = sum(array.nbytes for array in session.run(names, feed_of(session, one)))
    room = int(_available_memory() * MEMORY_SHARE)
    return fixed_batch(session) or max(1, min(batch, room // max(1, bytes_each)))


def _available_memory() -> int:
    """Bytes of memory that are available without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 4 << 30


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "memory" in text or "bad_alloc" in text or "bad allocation" in text


def _finite(name: str, array: np.ndarray) -> np.ndarray:
    """The array with infinities, as padding for max pooling has them, replaced by the finite extremes.

    Raises Failed if a value is not a number.
    """
    if np.isnan(array).any():
        raise Failed(f"calibration: tensor {name} has NaN values")
    infinite = np.isinf(array)
    if not infinite.any():
        return array
    finite = array[~infinite]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return np.clip(array, low, high)


def _extremes(seen: Activation, array: np.ndarray, axis: int | None) -> None:
    if not array.size:
        return
    seen.low, seen.high = min(seen.low, float(array.min())), max(seen.high, float(array.max()))
    if axis is None or not array.ndim:
        return
    others = tuple(d for d in range(array.ndim) if d != axis % array.ndim)
    largest = np.maximum(array.max(others), -array.min(others))
    total = array.sum(others, dtype=np.float64)
    seen.channel_max = largest if seen.channel_max is None else np.maximum(seen.channel_max, largest)
    seen.channel_sum = total if seen.channel_sum is None else seen.channel_sum + total
    seen.positions += array.size // len(total)


def _histogram(seen: Activation, array: np.ndarray, axis: int | None) -> None:
    if seen.high > seen.low and array.size:
        seen.histogram += torch.histc(torch.from_numpy(array), BINS, seen.low, seen.high).numpy()


def _min_max(seen: Activation, percentile: float) -> tuple[float, float]:
    return seen.low, seen.high


def _percentile(seen: Activation, percentile: float) -> tuple[float, float]:
    share = np.cumsum(seen.histogram) / max(seen.histogram.sum(), 1)
    width = (seen.high - seen.low) / BINS
    low = seen.low + width * int(np.searchsorted(share, 1 - percentile / 100, "right"))
    high = seen.low + width * (int(np.searchsorted(share, percentile / 100)) + 1)
    return low, min(high, seen.high)


def _entropy(seen: Activation, percentile: float) -> tuple[float, float]:
    """The range clipped at the magnitude for which the quantized distribution is closest to the original one."""
    magnitudes = _magnitudes(seen)
    magnitudes[0] = magnitudes[1]  # the zeros of a ReLU need no range and would dominate the rest
    levels = 256 if seen.low >= 0 else 128
    largest = max(-seen.low, seen.high)
    stops = range(levels, BINS + 1, 16)
    divergences = [_divergence(magnitudes, stop, levels) for stop in stops]
    threshold = largest * stops[int(np.argmin(divergences))] / BINS
    return max(seen.low, -threshold), min(seen.high, threshold)


def _divergence(counts: np.ndarray, stop: int, levels: int) -> float:
    """KL divergence between the first `stop` bins, with outliers in the last, and the same bins in `levels` levels."""
    original = counts[:stop].copy()
    original[-1] += counts[stop:].sum()
    level = np.arange(stop) * levels // stop
    filled = counts[:stop] > 0
    sums, sizes = np.bincount(level, counts[:stop], levels), np.bincount(level, filled, levels)
    quantized = np.where(filled, (sums / np.maximum(sizes, 1))[level], 0.0)
    p, q = original / original.sum(), quantized / max(quantized.sum(), 1e-12)
    both = p > 0
    return float((p[both] * np.log(p[both] / np.maximum(q[both], 1e-12))).sum())


def _magnitudes(seen: Activation) -> np.ndarray:
    """Histogram of |x| over [0, largest], BINS bins."""
    centres = seen.low + (np.arange(BINS) + 0.5) * (seen.high - seen.low) / BINS
    largest = max(-seen.low, seen.high)
    bins = np.minimum((np.abs(centres) / largest * BINS).astype(int), BINS - 1)
    return np.bincount(bins, seen.histogram, BINS)


def _mse(seen: Activation, percentile: float) -> tuple[float, float]:
    """The range, shrunk by one factor at both ends, with the least squared error when rounded to 256 levels."""
    centres = seen.low + (np.arange(BINS) + 0.5) * (seen.high - seen.low) / BINS
    best, least = (seen.low, seen.high), np.inf
    for share in np.linspace(1, 1 / CANDIDATES, CANDIDATES):
        low, high = min(0.0, seen.low * share), max(0.0, seen.high * share)
        step = (high - low) / 255
        error = centres - (np.round(np.clip(centres, low, high) / step) * step)
        total = float((seen.histogram * error**2).sum())
        if total < least:
            best, least = (low, high), total
    return best


RANGES: dict[str, Callable[[Activation, float], tuple[float, float]]] = {
    "min-max": _min_max,
    "percentile": _percentile,
    "entropy": _entropy,
    "mse": _mse,
}
