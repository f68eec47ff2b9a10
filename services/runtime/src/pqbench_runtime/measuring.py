"""Measures engines: times, memory, energy, and the state of the machine meanwhile."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np

from pqbench.runtime.v1 import runtime_pb2 as pb
from pqbench_runtime import energy, gpu, host, timing
from pqbench_runtime.feeds import first_batch
from pqbench_runtime.load import LoadMeter
from pqbench_runtime.loaded import LoadedEngines, instances_of, on_gpu
from pqbench_runtime.reporter import Reporter
from pqbench_runtime.scenarios import Instances
from pqbench_runtime.stability import judge
from pqbench_runtime.summary import summarise
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import Unavailable


def measure(
    request: pb.MeasureRequest, store: BlobStore, engines_loaded: LoadedEngines, reporter: Reporter
) -> pb.MeasureResult:
    """Time the engines on real examples (see `timing.measure`); then measure their energy, one after the other.

    All other engines are unloaded first: their memory would count as that of these engines.
    """
    settings = request.settings
    timing.check_settings(settings)
    engines_loaded.unload_others(request.engines, instances_of(settings))
    peak_known = host.forget_peak()
    loaded = [engines_loaded.instances(engine, settings) for engine in request.engines]
    batches = [first_batch(store, request.inputs, engine) for engine in request.engines]
    engines = [[one.session.bind(b) for one in instances] for instances, b in zip(loaded, batches, strict=True)]
    is_on_gpu, before = on_gpu(request.engines[0]), host.load_average()
    readings, load, meter = list[pb.GpuReading](), list[pb.LoadReading](), LoadMeter()
    if is_on_gpu:
        readings.append(gpu.reading(0.0))

    def after_round(fraction: float) -> None:
        load.append(meter.read())
        if is_on_gpu:
            readings.append(gpu.reading(load[-1].seconds))
        reporter.progress("measure", fraction)

    samples = timing.measure(engines, settings, after_round)
    timings = [summarise(own) for own in samples]
    for summary, own, each in zip(timings, samples, loaded, strict=True):
        summary.settings.update(each[0].session.settings)
        summary.load_seconds, summary.first_call_seconds = each[0].seconds, each[0].first_call
        if (memory := _together(one.memory for one in each)) is not None:
            summary.memory_bytes = memory
        if (memory := _together(one.device_memory for one in each)) is not None:
            summary.device_memory_bytes = memory
        judge(summary, np.asarray(own.latency), own.medians, settings, readings, load)
    _add_energy(timings, engines, settings, is_on_gpu)
    return pb.MeasureResult(
        timings=timings,
        samples=store.put(_archive(samples)),
        settings=settings,
        load_average_before=before,
        load_average_after=host.load_average(),
        peak_rss_bytes=host.peak_memory() if peak_known else None,
        environment=host.environment() | (gpu.environment() if is_on_gpu else {}),
        gpu=readings,
        load=load,
    )


def _add_energy(
    timings: list[pb.EngineTiming], engines: Sequence[Instances], settings: pb.MeasureSettings, is_on_gpu: bool
) -> None:
    if not settings.energy_seconds:
        return
    try:
        counter = energy.meter(is_on_gpu)
    except Unavailable as error:
        for summary in timings:
            summary.energy_source = str(error)
        return
    idle, seconds = energy.idle_watts(counter), max(2.0, settings.energy_seconds)
    for summary, instances in zip(timings, engines, strict=True):
        run = partial(timing.run_for, instances, settings, seconds, summary.server.rate)
        try:
            used = energy.of_call(counter, run, idle)
        except Unavailable as error:
            summary.energy_source = str(error)
            continue
        summary.joules_per_call, summary.idle_watts = used.joules_per_call, used.idle_watts
        summary.energy_source = counter.source


def _together(parts: Iterable[int | None]) -> int | None:
    """The sum of the parts, or None where a part is not known."""
    known = list(parts)
    return sum(part for part in known if part is not None) if None not in known else None


def _archive(samples: Sequence[timing.Samples]) -> bytes:
    """All raw samples as .npz; the arrays are those that `MeasureResult` in runtime.proto lists."""
    arrays: dict[str, np.ndarray] = {}
    for index, own in enumerate(samples):
        arrays[f"latency_{index}"] = np.asarray(own.latency)
        arrays[f"start_{index}"] = np.asarray(own.start)
        arrays[f"block_{index}"] = np.asarray(own.block, np.int32)
        arrays |= {f"{part}_{index}": np.asarray(values) for part, values in own.device.items()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()
