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

    def call() -> None:
        calls[0] += 1
        time.sleep(0.01)

    meter = Meter(source="test", joules=joules)
    idle = energy.idle_watts(meter, 0.2)
    assert idle == pytest.approx(10, rel=0.01)
    used = energy.of_call(meter, call, 0.2, idle)
    assert used.joules_per_call == pytest.approx(2, rel=0.02) and used.idle_watts == idle


def test_rapl_adds_packages_and_knows_that_counters_wrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    with pytest.raises(Unavailable, match="no RAPL counter"):
        energy.meter(on_gpu=False)
    for index, value in enumerate((5_000_000, 1_000_000)):
        folder = tmp_path / f"intel-rapl:{index}"
        folder.mkdir()
        (folder / "max_energy_range_uj").write_text("10000000")
        (folder / "energy_uj").write_text(str(value))
    (tmp_path / "intel-rapl:0:0").mkdir()  # a part of the package, which must not count twice
    meter = energy.meter(on_gpu=False)
    assert meter.source == "RAPL" and meter.joules() == pytest.approx(6)
    (tmp_path / "intel-rapl:0/energy_uj").write_text("2000000")
    assert meter.joules() == pytest.approx(6 + 7), "from 5 over 10 to 2"


def test_foreign_load_is_that_of_other_processes() -> None:
    meter = load.LoadMeter()
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
