"""Stability and its reasons."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pqbench.runtime.v1.runtime_pb2 import (
    SCENARIO_SERVER,
    EngineTiming,
    GpuReading,
    LoadReading,
)
from pqbench_runtime.stability import is_stable, judge
from pqbench_runtime.summary import summarise
from pqbench_runtime.timing import Samples

from .quick import settings


def judged(own: Samples, gpu: Any = (), load: Any = ()) -> EngineTiming:
    made = summarise(own)
    judge(made, np.asarray(own.latency), own.medians, settings(), gpu, load)
    return made


def test_stability_is_a_matter_of_the_last_windows() -> None:
    assert is_stable([9.0, 1.0, 1.01, 0.99], settings())
    noisy = Samples(medians=[1.0, 1.0, 1.2, 1.0], latency=[1.0, 1.2, 1.0], block=[0, 1, 2])
    assert not is_stable(noisy.medians, settings())
    assert judged(noisy).unstable_reason.startswith("noise: the last 3 windows' medians differ by")


def test_every_reason_is_told() -> None:
    rng = np.random.default_rng(0)
    calm = Samples(medians=[1.0, 1.0, 1.0], latency=list(rng.normal(1, 0.02, 400)))
    assert judged(calm).stable and judged(calm).unstable_reason == ""
    assert (
        judged(calm, gpu=[GpuReading(), GpuReading(throttled=["power cap"])]).unstable_reason == "throttled: power cap"
    )
    held = [GpuReading(seconds=at, held_seconds={"power cap": 7 + 0.02 * at, "hardware thermal": 3}) for at in (0, 2)]
    assert judged(calm, gpu=held).unstable_reason == "throttled: power cap", "2 % of the time, between readings"
    rarely = [GpuReading(seconds=at, held_seconds={"power cap": 0.005 * at}) for at in (0, 2)]
    assert judged(calm, gpu=rarely).stable
    at_the_limit = [GpuReading(), *[GpuReading(throttled=["power cap"])] * 9]
    assert judged(calm, gpu=at_the_limit).stable, "a board that never runs below its power limit"
    assert not judged(calm, gpu=[*at_the_limit, GpuReading(), GpuReading()]).stable
    always = [GpuReading(seconds=at, held_seconds={"power cap": at, "hardware thermal": 0.5 * at}) for at in (0, 2)]
    assert judged(calm, gpu=always).unstable_reason == "throttled: hardware thermal"
    quiet, busy = LoadReading(foreign_cores=0.03), LoadReading(foreign_cores=0.9)
    assert judged(calm, load=[quiet] * 6).stable
    assert judged(calm, load=[quiet] * 5 + [busy]).unstable_reason.startswith("other load: other processes used")
    stolen = [LoadReading(stolen_cores=0.4)] * 6
    assert judged(calm, load=stolen).unstable_reason.startswith("other load: the hypervisor took")


@pytest.mark.parametrize(
    ("latency", "bimodal"),
    [
        (lambda rng: rng.normal(1, 0.02, 1000), False),
        (lambda rng: rng.lognormal(0, 0.3, 1000), False),
        (lambda rng: rng.uniform(1, 2, 1000), False),
        (lambda rng: np.concatenate([rng.normal(1, 0.02, 950), rng.normal(3, 0.05, 50)]), False),  # rare outliers
        (lambda rng: np.concatenate([rng.normal(1, 0.02, 600), rng.normal(1.05, 0.02, 400)]), False),  # too close
        (lambda rng: np.concatenate([rng.normal(1, 0.02, 600), rng.normal(1.4, 0.03, 400)]), True),
    ],
)
def test_two_modes_are_told_from_one(latency: Any, bimodal: bool) -> None:
    own = Samples(medians=[1.0, 1.0, 1.0], latency=list(latency(np.random.default_rng(1))))
    assert judged(own).unstable_reason.startswith("bimodal: 40% of the calls take 139") == bimodal
    assert judged(own).stable != bimodal


def test_what_waits_in_a_queue_is_not_unstable() -> None:
    rng = np.random.default_rng(0)
    queued = Samples(medians=[1.0, 1.2, 1.5], latency=[*rng.normal(1, 0.02, 60), *rng.normal(2, 0.02, 40)])
    made = summarise(queued)
    judge(made, np.asarray(queued.latency), queued.medians, settings(scenario=SCENARIO_SERVER), [], [])
    assert made.stable and not judged(queued).stable
