"""Energy and the machine's load, on counters of the tests' own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pqbench_runtime import energy, load
from pqbench_runtime.energy import Meter
from pqbench_wire.errors import Unavailable


def test_idle_is_subtracted() -> None:
    """A machine that draws 10 W, and 2 J more for each call."""
    calls = [0]

    def joules() -> float:
        return 10 * time.perf_counter() + 2 * calls[0]

    def run() -> int:
        time.sleep(0.2)
        calls[0] += 20
        return 20

    meter = Meter(source="test", joules=joules)
    idle = energy.idle_watts(meter, 0.1)
    assert idle == pytest.approx(10, rel=0.01)
    used = energy.of_call(meter, run, idle)
    assert used.joules_per_call == pytest.approx(2, rel=0.02) and used.idle_watts == idle
    with pytest.raises(Unavailable, match="no more than the idle machine uses, 500.0 W"):
        energy.of_call(meter, run, idle=500.0)


def test_the_idle_machine_is_the_one_that_has_come_to_rest() -> None:
    """Clocks fall: 30 W in the first reading, 10 W afterwards."""
    begin = time.perf_counter()

    def joules() -> float:
        spent = time.perf_counter() - begin
        return 30 * min(spent, 0.1) + 10 * max(0.0, spent - 0.1)

    assert energy.idle_watts(Meter(source="test", joules=joules), 0.1) == pytest.approx(10, rel=0.01)


def test_rapl_adds_packages_and_knows_that_counters_wrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    with pytest.raises(Unavailable, match="no RAPL counter"):
        energy.meter(on_gpu=False)
    for index, value in enumerate((5_000_000, 1_000_000)):
        folder = tmp_path / f"intel-rapl:{index}"
        folder.mkdir()
        (folder / "max_energy_range_uj").write_text("10000000")
        (folder / "energy_uj").write_text(str(value))
        (folder / "name").write_text(f"package-{index}\n")
    for zone, name in (
        ("intel-rapl:0:0", "core"),
        ("intel-rapl:2", "psys"),
    ):  # must not count the packages' joules again
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "name").write_text(name)
    meter = energy.meter(on_gpu=False)
    assert meter.source == "RAPL" and meter.joules() == pytest.approx(6)
    (tmp_path / "intel-rapl:0/energy_uj").write_text("2000000")
    assert meter.joules() == pytest.approx(6 + 7), "from 5 over 10 to 2"


def test_a_counter_behind_a_masked_link_is_absent_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in Docker's default containers on a machine that has RAPL."""
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    (tmp_path / "intel-rapl:0").symlink_to(tmp_path / "masked")
    with pytest.raises(Unavailable, match="RAPL's counter cannot be read: .*intel-rapl:0/name: No such file"):
        energy.meter(on_gpu=False)


def test_cores_whose_clock_cannot_be_read_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "CPUS", tmp_path)
    cores = sorted(os.sched_getaffinity(0))
    for core in cores:
        (tmp_path / f"cpu{core}/cpufreq/scaling_cur_freq").mkdir(parents=True)  # reading it fails
    last = tmp_path / f"cpu{cores[-1]}/cpufreq/scaling_cur_freq"
    last.rmdir()
    last.write_text("2500000\n")
    assert load.core_mhz() == 2500


def test_foreign_load_is_that_of_other_processes() -> None:
    meter = load.LoadMeter()
    time.sleep(0.3)
    if meter.read().foreign_cores > len(os.sched_getaffinity(0)) - 1.2:
        pytest.skip("skipped: other processes leave no core to load")
    end = time.perf_counter() + 0.4
    while time.perf_counter() < end:  # this process is busy: that is not foreign
        pass
    own = meter.read()
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.2)
        meter.read()
        time.sleep(0.6)
        theirs = meter.read()
    finally:
        burner.kill()
        burner.wait()
    assert theirs.foreign_cores > own.foreign_cores + 0.5
    assert 0 < own.seconds < theirs.seconds and theirs.foreign_cores <= (os.cpu_count() or 1) + 0.2
