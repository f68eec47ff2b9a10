"""Times of a measurement."""

from __future__ import annotations

from pqbench.runtime.v1.runtime_pb2 import DeviceTime, EngineTiming, GpuReading, MeasureResult
from pqbench_orchestrator.results.cell import Device
from pqbench_orchestrator.results.timing import device_of


def test_device_times_are_columns_where_there_is_a_gpu() -> None:
    assert device_of(MeasureResult(timings=[EngineTiming(median=1)])) == Device()
    timing = EngineTiming(device={"compute": DeviceTime(median=0.002), "h2d": DeviceTime(median=0.0005)})
    at_rest, at_work = GpuReading(power_watts=50, sm_mhz=1500), GpuReading(power_watts=70, sm_mhz=1200)
    readings = [at_rest, at_work, GpuReading(sm_mhz=1300)]
    assert device_of(MeasureResult(timings=[timing], gpu=readings)) == Device(
        compute_ms=2.0, h2d_ms=0.5, power_w=70.0, clock_min_mhz=1200, clock_max_mhz=1300
    )
    counted = [GpuReading(power_watts=50, energy_joules=100, seconds=1), GpuReading(energy_joules=220, seconds=3)]
    assert device_of(MeasureResult(timings=[timing], gpu=counted)).power_w == 60.0


def test_a_board_that_two_engines_share_has_no_power_of_one() -> None:
    """Interleaved with the baseline, watts and clocks are of both; the times of the device are the engine's own."""
    mine, other = (EngineTiming(device={"compute": DeviceTime(median=seconds)}) for seconds in (0.002, 0.005))
    readings = [GpuReading(power_watts=w, sm_mhz=1500, energy_joules=w, seconds=w) for w in (50, 70, 90)]
    assert device_of(MeasureResult(timings=[mine, other], gpu=readings)) == Device(compute_ms=2.0)
    alone = device_of(MeasureResult(timings=[mine], gpu=readings))
    assert alone.power_w == 1.0 and alone.clock_max_mhz == 1500
