"""Why is it not faster? Realised against theoretical speed-up, and where the time of a call goes, for one cell.

Shares are of the time that the backend's own profiler gives to layers, in a run of its own.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format

from pqbench.compressor.v1.compressor_pb2 import CompressResult, Statistics
from pqbench.runtime.v1.runtime_pb2 import BuildEngineResult, LayerTime, ProfileResult
from pqbench_orchestrator.results.cell import CellResult

CONVERTING = re.compile(
    r"quantizelinear|fakequantize|reorder|reformat|cast|convert|transpose|_to_copy|^to$|memcpy", re.IGNORECASE
)
# A layer runs wider than asked for.
WIDER = {"INT4": 0, "INT8": 1, "FP8": 1, "FP16": 2, "BF16": 2, "TF32": 3, "FP32": 4}
LAUNCHES = "The profiler tells how long the host took to launch each layer, not how long the device ran it."
ARITHMETIC = {"INT8": 4, "FP8": 4, "FP16": 2, "BF16": 2}  # products at once where one of FP32 is, by width
OUTSIDE_BOUND = 0.3  # of a call outside of its layers: the host, not the layers, decides
MEMORY_BOUND = 0.5  # of what a plain copy moves, that reading the weights alone takes
CONVERTING_BOUND = 0.2
LEAST_ZEROS = 0.1  # share of the weights
FEW_CONVOLUTIONS = 5  # layers that a sentence names


@dataclass(frozen=True, kw_only=True)
class Why:
    """The answer for one cell."""

    text: str  # one paragraph
    flags: list[str]  # what the cell is bound by
    by_macs: float | None  # speed-up if time followed the multiply-accumulates, narrow ones several at once
    by_bytes: float | None  # speed-up if time followed the bytes of the engine, against the baseline's engine
    precisions: dict[str, float]  # share of the time by what layers execute in, largest first
    # Shares of the time are None where the profiler does not tell the layers' own.
    converting: float | None  # in quantizing, casting and reordering
    outside: float | None  # of a call that no layer accounts for; None also where the profiler slows layers down
    fell_back: list[str]  # compute layers wider than the recipe asks for
    layers: list[LayerTime]
    baseline: dict[str, float]  # type of layer -> seconds of a call, in the baseline


def explain(cell: CellResult, results: Mapping[str, dict[str, Any]]) -> Why:
    """The answer from a cell and the results of its steps by role; `profile` must be among them."""
    profile = json_format.ParseDict(results["profile"], ProfileResult())
    build = json_format.ParseDict(results["build"], BuildEngineResult())
    variant = json_format.ParseDict(results["variant"], CompressResult()).statistics
    unpruned = json_format.ParseDict(results.get("unpruned", {}), CompressResult()).statistics
    whole = sum(layer.seconds for layer in profile.layers) or 1e-12
    latency = (cell.median_ms or 0.0) / 1e3
    conversions = [layer for layer in profile.layers if CONVERTING.search(layer.type)]
    converting = None if profile.launches else sum(layer.seconds for layer in conversions) / whole
    alone = cell.scenario == "single-stream"  # the profile's calls are; others wait for each other
    on_host = profile.HasField("copy_bytes_per_second") and alone
    is_divided = bool(profile.layers) and not profile.launches
    outside = 1 - whole / latency if alone and is_divided and whole < latency else None
    fell_back = _fell_back(profile.layers, cell.precision or "")
    by_macs = _ratio(unpruned.macs, variant.macs)
    if by_macs is not None:
        by_macs *= max((ARITHMETIC.get(name, 1) for name in build.executed), default=1)
    baseline = json_format.ParseDict(results.get("baseline build", {}), BuildEngineResult())
    by_bytes = _ratio(baseline.engine.blob.size, build.engine.blob.size)
    reading = variant_bytes(variant, cell.precision or "") / latency if latency else 0.0
    memory = reading / profile.copy_bytes_per_second if on_host else 0.0
    flags = [
        *(["host"] if outside is not None and outside > OUTSIDE_BOUND else []),
        *(["memory"] if memory > MEMORY_BOUND else []),
        *(["conversions"] if converting is not None and converting > CONVERTING_BOUND else []),
        *(["fallback"] if fell_back else []),
    ]
    precisions = {} if profile.launches else _shares(profile.layers, whole)
    sentences = [
        _realised(cell, by_macs, by_bytes),
        _slowed(whole, latency) if alone and not profile.launches else "",
        _where(profile, precisions, conversions, converting),
        _fallbacks(fell_back, profile.layers),
        f"{outside:.0%} of a call is outside of its layers." if outside is not None and outside > 0.05 else "",
        f"Reading the weights alone takes {memory:.0%} of what a copy in memory moves." if memory > 0.2 else "",
        _zeros(variant),
    ]
    return Why(
        text=" ".join(sentence for sentence in sentences if sentence),
        flags=flags,
        by_macs=by_macs,
        by_bytes=by_bytes,
        precisions=precisions,
        converting=converting,
        outside=outside,
        fell_back=fell_back,
        layers=list(profile.layers),
        baseline=_by_type(results.get("baseline profile")),
    )


def _slowed(whole: float, latency: float) -> str:
    """Profiled layers may take longer than a whole call does without the profiler."""
    if not latency or whole <= latency:
        return ""
    return (
        f"Under the profiler its layers take {whole * 1e3:.3f} ms, a call without it {latency * 1e3:.3f} ms: "
        "only shares count."
    )


def variant_bytes(statistics: Statistics, precision: str) -> float:
    """Bytes of the weights in the precision that the recipe asks for."""
    bits = {"INT4": 4, "INT8": 8, "INT8_DYNAMIC": 8, "FP8": 8, "FP16": 16, "BF16": 16}.get(precision, 32)
    return statistics.parameters * bits / 8


def _ratio(before: float, after: float) -> float | None:
    return before / after if before and after else None


def _shares(layers: Sequence[LayerTime], whole: float) -> dict[str, float]:
    spent: dict[str, float] = defaultdict(float)
    for layer in layers:
        spent[layer.precision or "unknown"] += layer.seconds / whole
    return dict(sorted(spent.items(), key=lambda one: -one[1]))


def _fell_back(layers: Sequence[LayerTime], asked: str) -> list[str]:
    """What FP32 asks for is met by anything; a precision that the profiler does not tell is none."""
    rank = WIDER.get(asked.removesuffix("_DYNAMIC"))
    if rank is None:
        return []
    return [one.name for one in layers if one.compute and WIDER.get(one.precision, -1) > rank]


def _by_type(profile: dict[str, Any] | None) -> dict[str, float]:
    spent: dict[str, float] = defaultdict(float)
    for layer in json_format.ParseDict(profile or {}, ProfileResult()).layers:
        spent[layer.type] += layer.seconds
    return dict(spent)


def _realised(cell: CellResult, by_macs: float | None, by_bytes: float | None) -> str:
    against = cell.comparison
    if against is None or against.speedup is None:
        return "This is the baseline." if cell.is_baseline else ""
    low, high = against.speedup_low, against.speedup_high
    interval = f" ({low:.2f}–{high:.2f})" if low is not None and high is not None else ""
    theory = [
        f"{value:.2f}× by its {what}"
        for value, what in ((by_macs, "multiply-accumulates"), (by_bytes, "bytes"))
        if value
    ]
    possible = f"; in theory {' and '.join(theory)}" if theory else ""
    return f"It runs {against.speedup:.2f}× as fast as the baseline{interval}{possible}."


def _where(
    profile: ProfileResult, precisions: Mapping[str, float], conversions: Sequence[LayerTime], converting: float | None
) -> str:
    if converting is None:
        return LAUNCHES
    if not profile.layers:
        return "The profiler names no layers."
    products = sum(layer.seconds for layer in profile.layers if layer.compute)
    whole = sum(layer.seconds for layer in profile.layers) or 1e-12
    parts = ", ".join(f"{share:.0%} in {name}" for name, share in precisions.items() if share >= 0.01)
    kinds = ", ".join(dict.fromkeys(layer.type for layer in conversions if layer.seconds))
    text = f"Of the layers' time {products / whole:.0%} is convolutions and matrix products; {parts}"
    return (
        f"{text}; {converting:.0%} goes into quantizing, casting and reordering ({kinds})."
        if converting > 0.005
        else f"{text}."
    )


def _fallbacks(names: Sequence[str], layers: Sequence[LayerTime]) -> str:
    if not names:
        return ""
    count = sum(layer.compute for layer in layers)
    more = f" and {len(names) - FEW_CONVOLUTIONS} more" if len(names) > FEW_CONVOLUTIONS else ""
    listed = ", ".join(names[:FEW_CONVOLUTIONS])
    return f"{len(names)} of {count} compute layers run wider than asked for: {listed}{more}."


def _zeros(statistics: Statistics) -> str:
    """Zeros that are stored and multiplied like other numbers."""
    share = 1 - statistics.nonzeros / statistics.parameters if statistics.parameters else 0.0
    if share < LEAST_ZEROS:
        return ""
    return f"{share:.0%} of its weights are zeros, which this runtime stores and multiplies like any others."
