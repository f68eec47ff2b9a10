"""Explains why a cell is not faster: realised against theoretical speed-up, and where the time of a call goes.

Shares are of the time that the backend's own profiler attributes to layers, in a separate run.
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
# Ranks of precisions by width: a layer that runs in a higher rank than the recipe asks for has fallen back.
WIDER = {"INT4": 0, "INT8": 1, "FP8": 1, "FP16": 2, "BF16": 2, "TF32": 3, "FP32": 4}
LAUNCHES = "The profiler reports how long the host took to launch each layer, not how long the device ran it."
ARITHMETIC = {"INT8": 4, "FP8": 4, "FP16": 2, "BF16": 2}  # multiply-accumulates in the time of one in FP32, by width
OUTSIDE_BOUND = 0.3  # share of a call outside its layers, above which the host is the bottleneck
MEMORY_BOUND = 0.5  # share of a plain copy's bandwidth for reading the weights, above which memory is the bottleneck
CONVERTING_BOUND = 0.2  # share of the layers' time, above which conversions are a bottleneck
# Shares above which a sentence is worth its place.
LEAST_OUTSIDE, LEAST_MEMORY, LEAST_CONVERTING, LEAST_ZEROS = 0.05, 0.2, 0.005, 0.1
MB = 1e6
FEW_CONVOLUTIONS = 5  # how many layers a sentence names


@dataclass(frozen=True, kw_only=True)
class Why:
    """The answer for one cell."""

    text: str  # one paragraph
    flags: list[str]  # the bottlenecks: host, memory, conversions, fallback
    by_macs: float | None  # speed-up if time were proportional to the multiply-accumulates, narrow ones being faster
    by_bytes: float | None  # speed-up if time were proportional to the bytes of the engine
    precisions: dict[str, float]  # executed precision -> share of the layers' time, the largest first
    # These shares are None where the profiler does not give the layers' own times.
    converting: float | None  # of the layers' time: in quantizing, casting and reordering
    outside: float | None  # of a call's time: in no layer; None also where the layers take longer under the profiler
    fell_back: list[str]  # compute layers that run wider than the recipe asks for
    layers: list[LayerTime]
    baseline: dict[str, float]  # type of layer -> its seconds in a call of the baseline


@dataclass(frozen=True, kw_only=True)
class _Evidence:
    """A cell with the results of its steps, and the figures that follow from them."""

    cell: CellResult
    profile: ProfileResult
    build: BuildEngineResult
    baseline_build: BuildEngineResult
    variant: Statistics
    unpruned: Statistics

    @property
    def whole(self) -> float:
        """Seconds that the profiler attributes to the layers of one call."""
        return sum(layer.seconds for layer in self.profile.layers) or 1e-12

    @property
    def latency(self) -> float:
        """Seconds of a call without the profiler."""
        return (self.cell.median_ms or 0.0) / 1e3

    @property
    def runs_alone(self) -> bool:
        """Whether calls are timed as they are profiled, one after another; in other scenarios they wait."""
        return self.cell.scenario == "single-stream"

    @property
    def conversions(self) -> list[LayerTime]:
        """The layers that quantize, cast or reorder."""
        return [layer for layer in self.profile.layers if CONVERTING.search(layer.type)]

    @property
    def converting(self) -> float | None:
        if self.profile.launches:
            return None
        return sum(layer.seconds for layer in self.conversions) / self.whole

    @property
    def outside(self) -> float | None:
        has_times = bool(self.profile.layers) and not self.profile.launches
        is_comparable = self.runs_alone and has_times and self.whole < self.latency
        return 1 - self.whole / self.latency if is_comparable else None

    @property
    def memory(self) -> float:
        """Share of a plain copy's bandwidth that reading the weights takes; 0 where that is not known."""
        if not (self.profile.HasField("copy_bytes_per_second") and self.runs_alone and self.latency):
            return 0.0
        read = variant_bytes(self.variant, self.cell.precision or "") / self.latency
        return read / self.profile.copy_bytes_per_second

    @property
    def precisions(self) -> dict[str, float]:
        return {} if self.profile.launches else _shares(self.profile.layers, self.whole)

    @property
    def fell_back(self) -> list[str]:
        return _fell_back(self.profile.layers, self.cell.precision or "")

    @property
    def by_macs(self) -> float | None:
        ratio = _ratio(self.unpruned.macs, self.variant.macs)
        faster = max((ARITHMETIC.get(name, 1) for name in self.build.executed), default=1)
        return None if ratio is None else ratio * faster

    @property
    def by_bytes(self) -> float | None:
        return _ratio(self.baseline_build.engine.blob.size, self.build.engine.blob.size)


def explain(cell: CellResult, results: Mapping[str, dict[str, Any]]) -> Why:
    """The answer for a cell from the results of its steps by role, which must include `profile`."""
    evidence = _Evidence(
        cell=cell,
        profile=json_format.ParseDict(results["profile"], ProfileResult()),
        build=json_format.ParseDict(results["build"], BuildEngineResult()),
        baseline_build=json_format.ParseDict(results.get("baseline build", {}), BuildEngineResult()),
        variant=json_format.ParseDict(results["variant"], CompressResult()).statistics,
        unpruned=json_format.ParseDict(results.get("unpruned", {}), CompressResult()).statistics,
    )
    return Why(
        text=" ".join(sentence for sentence in _sentences(evidence) if sentence),
        flags=_flags(evidence),
        by_macs=evidence.by_macs,
        by_bytes=evidence.by_bytes,
        precisions=evidence.precisions,
        converting=evidence.converting,
        outside=evidence.outside,
        fell_back=evidence.fell_back,
        layers=list(evidence.profile.layers),
        baseline=_by_type(results.get("baseline profile")),
    )


def explain_engine(cell: CellResult, results: Mapping[str, dict[str, Any]]) -> str:
    """What is known of a cell whose engine was built and not measured: `results` must include `build`."""
    build = json_format.ParseDict(results["build"], BuildEngineResult())
    baseline = json_format.ParseDict(results.get("baseline build", {}), BuildEngineResult()).engine.blob.size
    against = f"; the baseline's has {baseline / MB:.2f} MB" if baseline and not cell.is_baseline else ""
    weights = variant_bytes(
        json_format.ParseDict(results["variant"], CompressResult()).statistics, cell.precision or ""
    )
    sentences = [
        f"Its engine was built and not measured ({cell.reason}).",
        f"It has {build.engine.blob.size / MB:.2f} MB, of which weights in {cell.precision} take about "
        f"{weights / MB:.2f} MB{against}.",
        _kernels(build),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _kernels(build: BuildEngineResult) -> str:
    """A sentence about kernels that an engine holds besides the weights, where its backend counts them; else empty."""
    return f"It holds kernels: {build.settings['kernels']}." if "kernels" in build.settings else ""


def _flags(evidence: _Evidence) -> list[str]:
    """The bottlenecks."""
    found = {
        "host": (evidence.outside or 0.0) > OUTSIDE_BOUND,
        "memory": evidence.memory > MEMORY_BOUND,
        "conversions": (evidence.converting or 0.0) > CONVERTING_BOUND,
        "fallback": bool(evidence.fell_back),
    }
    return [name for name, is_one in found.items() if is_one]


def _sentences(evidence: _Evidence) -> list[str]:
    """The sentences of the paragraph; one that does not apply is empty."""
    outside, memory = evidence.outside or 0.0, evidence.memory
    reading = f"Reading the weights alone takes {memory:.0%} of the bandwidth of a plain copy in memory."
    return [
        _realised(evidence.cell, evidence.by_macs, evidence.by_bytes),
        _slowed(evidence),
        _where(evidence),
        _fallbacks(evidence.fell_back, evidence.profile.layers),
        f"{outside:.0%} of a call is spent outside its layers." if outside > LEAST_OUTSIDE else "",
        reading if memory > LEAST_MEMORY else "",
        _zeros(evidence),
        _kernels(evidence.build),
    ]


def _slowed(evidence: _Evidence) -> str:
    """A sentence where the layers take longer under the profiler than a whole call does without it; else empty."""
    whole, latency = evidence.whole, evidence.latency
    if not evidence.runs_alone or evidence.profile.launches or not latency or whole <= latency:
        return ""
    return (
        f"Under the profiler its layers take {whole * 1e3:.3f} ms, a call without it {latency * 1e3:.3f} ms: "
        "only the shares are meaningful."
    )


def variant_bytes(statistics: Statistics, precision: str) -> float:
    """Bytes of all weights in the precision that the recipe asks for."""
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
    """The compute layers that run wider than the precision `asked` for; none for FP32, which is the widest.

    A layer whose precision the profiler does not give does not count.
    """
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


def _where(evidence: _Evidence) -> str:
    converting = evidence.converting
    if converting is None:
        return LAUNCHES
    if not evidence.profile.layers:
        return "The profiler names no layers."
    products = sum(layer.seconds for layer in evidence.profile.layers if layer.compute) / evidence.whole
    parts = ", ".join(f"{share:.0%} in {name}" for name, share in evidence.precisions.items() if share >= 0.01)
    text = f"Of the layers' time {products:.0%} is spent in convolutions and matrix products; {parts}"
    if converting <= LEAST_CONVERTING:
        return f"{text}."
    kinds = ", ".join(dict.fromkeys(layer.type for layer in evidence.conversions if layer.seconds))
    return f"{text}; {converting:.0%} goes into quantizing, casting and reordering ({kinds})."


def _fallbacks(names: Sequence[str], layers: Sequence[LayerTime]) -> str:
    if not names:
        return ""
    count = sum(layer.compute for layer in layers)
    more = f" and {len(names) - FEW_CONVOLUTIONS} more" if len(names) > FEW_CONVOLUTIONS else ""
    listed = ", ".join(names[:FEW_CONVOLUTIONS])
    return f"{len(names)} of {count} compute layers run in a wider precision than requested: {listed}{more}."


def _zeros(evidence: _Evidence) -> str:
    """A sentence about zeros among the weights, and what the runtime makes of them; empty where they are few."""
    statistics, settings = evidence.variant, evidence.build.settings
    share = 1 - statistics.nonzeros / statistics.parameters if statistics.parameters else 0.0
    if share < LEAST_ZEROS:
        return ""
    if "sparse_tactics" in settings:
        return f"{share:.0%} of its weights are zeros; layers with sparse kernels: {settings['sparse_tactics']}."
    unused = f"; {settings['sparsity']}" if "sparsity" in settings else ""
    return f"{share:.0%} of its weights are zeros, which this runtime stores and multiplies like any others{unused}."
