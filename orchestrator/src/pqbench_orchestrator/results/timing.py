"""Times of a cell, from a measurement of its engine and, where it is paired, of the baseline's engine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pqbench.runtime.v1.runtime_pb2 import EngineTiming, GpuReading, MeasureResult
from pqbench_orchestrator.results.cell import Comparison, Device, Energy, Server, Timing
from pqbench_orchestrator.statistics import (
    BETTER,
    NORMAL,
    SAME,
    WORSE,
    Ratio,
    paired_speedup,
    unpaired_ratio,
    verdict,
)

MB = 1_000_000
MS = 1000
AGAINST = {BETTER: "faster", WORSE: "slower", SAME: "same"}
Arrays = Mapping[str, np.ndarray]  # the samples of a measurement by name: "latency_0" of the first engine, and so on


def timing_of(result: MeasureResult, arrays: Arrays, batch_size: int, scenario: str) -> Timing:
    """The times of a measurement's first engine; `arrays`: the measurement's samples."""
    own: EngineTiming = result.timings[0]
    return Timing(
        median_ms=own.median * MS,
        median_low_ms=own.median_low * MS,
        median_high_ms=own.median_high * MS,
        mean_ms=own.mean * MS,
        std_ms=own.std * MS,
        p90_ms=own.p90 * MS,
        p95_ms=own.p95 * MS,
        p99_ms=own.p99 * MS,
        p999_ms=own.p999 * MS,
        min_ms=own.min * MS,
        max_ms=own.max * MS,
        calls=own.count,
        images_per_s=batch_size * (1 / own.median if scenario == "single-stream" else own.calls_per_second),
        is_stable=own.stable,
        unstable_reason=own.unstable_reason or None,
        load_s=own.load_seconds,
        first_call_s=own.first_call_seconds,
        engine_memory_mb=own.memory_bytes / MB if own.HasField("memory_bytes") else None,
        device_memory_mb=own.device_memory_bytes / MB if own.HasField("device_memory_bytes") else None,
        worker_peak_mb=result.peak_rss_bytes / MB if result.HasField("peak_rss_bytes") else None,
        load_average=result.load_average_before,
        foreign_load_cores=float(np.mean([one.foreign_cores for one in result.load])) if result.load else None,
        server=server_of(own),
        energy=energy_of(own, batch_size),
        device=device_of(result),
        comparison=_paired(result, arrays),
        cuda_graph=dict(own.settings).get("cuda_graph"),
    )


def _paired(result: MeasureResult, arrays: Arrays) -> Comparison | None:
    if len(result.timings) < 2:
        return None
    ratio = paired_speedup(arrays["latency_0"], arrays["block_0"], arrays["latency_1"], arrays["block_1"])
    return comparison_of(ratio, result.timings[1].median, is_paired=True)


def unpaired(baseline: MeasureResult, baseline_arrays: Arrays, arrays: Arrays) -> Comparison:
    """The comparison of a measurement (its `arrays`) with a separate measurement of the baseline."""
    ratio = unpaired_ratio(block_medians(baseline_arrays), block_medians(arrays))
    return comparison_of(ratio, baseline.timings[0].median, is_paired=False)


def comparison_of(ratio: Ratio, baseline_seconds: float, is_paired: bool) -> Comparison:
    """The comparison for a speed-up with its interval, of which an infinite upper end becomes None."""
    latency = Ratio(value=1 / ratio.value, low=1 / ratio.high, high=1 / ratio.low if ratio.low else math.inf)
    return Comparison(
        baseline_ms=baseline_seconds * MS,
        is_paired=is_paired,
        speedup=ratio.value,
        speedup_low=ratio.low,
        speedup_high=ratio.high if math.isfinite(ratio.high) else None,
        verdict=AGAINST[verdict(latency)],
    )


def speedup_error(repeats: Iterable[Comparison | None]) -> float:
    """The standard error of the mean logarithm of the repeats' paired speed-ups; infinite where one has no interval."""
    errors = []
    for one in repeats:
        if one is None or not (one.is_paired and one.speedup_low and one.speedup_high):
            return math.inf
        errors.append((math.log(one.speedup_high) - math.log(one.speedup_low)) / (2 * NORMAL))
    return math.hypot(*errors) / len(errors)


def block_medians(arrays: Arrays) -> list[float]:
    """The median latency of each of the first engine's blocks, in seconds."""
    latency, block = arrays["latency_0"], arrays["block_0"]
    return [float(np.median(latency[block == number])) for number in np.unique(block)]


def server_of(timing: EngineTiming) -> Server | None:
    """The result of the server scenario; None for other scenarios."""
    if not timing.HasField("server"):
        return None
    found = timing.server
    invalid = found.invalid_reason or ("" if found.met else "no rate met the bound of the 99th percentile")
    return Server(
        rate_per_s=found.rate,
        is_searched=len(found.probes) > 1,
        slip_p99_ms=found.slip_p99 * MS,
        is_valid=found.valid and found.met,
        invalid_reason=invalid or None,
    )


def energy_of(timing: EngineTiming, batch_size: int) -> Energy | None:
    """The energy of one image; where it was not measured, the reason; None where there is no reason either."""
    if not timing.HasField("joules_per_call"):
        return Energy(source=timing.energy_source) if timing.energy_source else None
    return Energy(
        mj_per_image=timing.joules_per_call / batch_size * 1000,
        idle_w=timing.idle_watts,
        source=timing.energy_source,
    )


def device_of(result: MeasureResult) -> Device:
    """The first engine's times by the device's own clock, and NVML's readings of the board during the measurement.

    Times are medians of compute and copies. Where the engine was measured alone, there are also the whole board's mean
    power, from its energy counter if it has one, and the range of the SM clock. NVML's first reading is before the
    first block, when the board is at rest.
    """
    medians = {part: time.median * MS for part, time in result.timings[0].device.items()}
    device = Device(compute_ms=medians.get("compute"), h2d_ms=medians.get("h2d"), d2h_ms=medians.get("d2h"))
    if len(result.timings) > 1:  # interleaved with the baseline: the board's power and clocks are those of both engines
        return device
    clocks = [one.sm_mhz for one in result.gpu[1:] if one.HasField("sm_mhz")]
    return Device(
        compute_ms=device.compute_ms,
        h2d_ms=device.h2d_ms,
        d2h_ms=device.d2h_ms,
        power_w=_mean_power(result.gpu),
        clock_min_mhz=min(clocks, default=None),
        clock_max_mhz=max(clocks, default=None),
    )


def _mean_power(readings: Sequence[GpuReading]) -> float | None:
    counted = [one for one in readings if one.HasField("energy_joules")]
    if len(counted) > 1:
        return float(
            (counted[-1].energy_joules - counted[0].energy_joules) / (counted[-1].seconds - counted[0].seconds)
        )
    watts = [one.power_watts for one in readings[1:] if one.HasField("power_watts")]
    return float(np.mean(watts)) if watts else None
