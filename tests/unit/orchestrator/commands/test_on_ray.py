"""What runs where on a Ray cluster, and what a machine refuses; the cluster itself is in tests/e2e/test_ray.py."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pqbench_orchestrator.commands.on_ray import MACHINE, check_devices, startable
from pqbench_orchestrator.commands.ray_job import THREADS, Job, Progress, run_job
from pqbench_orchestrator.execution import environment
from pqbench_orchestrator.execution.shared import SharedStore
from pqbench_wire.errors import InvalidInput

pytest.importorskip("obstore", reason="skipped: no obstore")
JOB = Job(
    shard="1/4", model="a", target="ort", device="", file="m.yaml", manifest="", inventory="", allow_code=False,
    store="file:///nowhere", ledger="", mark="m", versions={}, data="data",
)  # fmt: skip


def job(shard: int, model: str, **changes: Any) -> Job:
    return dataclasses.replace(JOB, shard=f"{shard}/4", model=model, **changes)


def test_one_shard_of_a_model_compresses_before_the_others_start() -> None:
    first, second, third, other = job(1, "a"), job(2, "a"), job(3, "a"), job(4, "b")
    assert startable([first, second, third, other], [], {}) == [first, other]
    assert startable([second, third], [first, other], {}) == []
    for kind, started in (("compress", []), ("build", [second, third]), ("measure", [second, third])):
        progress = {"1/4": Progress(machine="m", node="n", kind=kind)}
        assert startable([second, third], [first, other], progress) == started
    assert startable([second, third], [other], {}) == [second], "the first has ended"


def cluster(*machines: dict[str, float]) -> Any:
    nodes = [{"NodeID": str(index), "Alive": True, "Resources": one} for index, one in enumerate(machines)]
    return SimpleNamespace(nodes=lambda: nodes)


def test_a_class_that_no_machine_has_is_refused() -> None:
    check_devices(cluster({MACHINE: 1, "pqbench-epyc": 1}), [job(1, "a", device="epyc"), job(2, "a")])
    with pytest.raises(InvalidInput, match="target ort needs a machine of class epyc"):
        check_devices(cluster({MACHINE: 1}, {"pqbench-epyc": 1}), [job(1, "a", device="epyc")])
    with pytest.raises(InvalidInput, match="pqbench worker --join"):
        check_devices(cluster({"CPU": 2}), [JOB])


def test_a_machine_that_does_not_fit_refuses(tmp_path: Path) -> None:
    store = SharedStore(f"file://{tmp_path}/store")
    one = dataclasses.replace(JOB, data=str(tmp_path), store=store.url)
    outcome = run_job(one, None, "n")
    assert "this machine has another pqbench" in outcome.error and not outcome.archive
    one = dataclasses.replace(one, versions=environment.own_versions(), manifest="name: [")
    assert "is not shared" in run_job(one, None, "n").error
    store.mark("m")
    assert "manifest.yaml" in run_job(one, None, "n").error


@pytest.mark.parametrize("chosen", ["", "2"])
def test_rays_number_of_threads_is_undone(monkeypatch: pytest.MonkeyPatch, chosen: str) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as Ray does
    monkeypatch.setenv(THREADS, chosen)
    seen: list[str] = []
    monkeypatch.setattr(environment, "own_versions", lambda: seen.append(os.environ.get("OMP_NUM_THREADS", "")) or {})
    assert run_job(JOB, None, "n").error
    assert seen == [chosen] and os.environ["OMP_NUM_THREADS"] == "1"
