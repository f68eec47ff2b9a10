"""A cell measured again: after a choice until its times settle, and beside vendor tools."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format

from pqbench.common.v1.common_pb2 import Blob
from pqbench.runtime.v1 import runtime_pb2 as pb
from pqbench_orchestrator.decide.remeasure import MOST_TOOLS, REMEASUREMENTS, Remeasurement
from pqbench_orchestrator.execution.services import Services
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import Failed, InvalidInput

from ..cells import cell
from ..fakes import FakeLauncher, services_of

ENGINE = {"engine": {"backend": "b", "batchSize": 1}}
CELL = cell({"Recipe": "int8", "Target": "a"})


def measured(store: BlobStore, stable: bool, engines: int) -> pb.MeasureResult:
    arrays = {f"{name}_{i}": np.repeat(0.001 * (i + 1), 12) if name == "latency" else np.arange(12) // 2
              for i in range(engines) for name in ("latency", "block")}  # fmt: skip
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    timings = [pb.EngineTiming(median=0.001 * (i + 1), stable=stable, count=12) for i in range(engines)]
    return pb.MeasureResult(timings=timings, samples=store.put(buffer.getvalue()))


def results(store: BlobStore, paired: bool = True) -> dict[str, Any]:
    before = json_format.MessageToDict(measured(store, True, 2 if paired else 1))
    return {"build": ENGINE, "inputs": {}, "measure": before} | ({"baseline build": ENGINE} if paired else {})


class Runtime:
    """Measures as a script says: stable or not, or with an error."""

    def __init__(self, store: BlobStore, *script: bool | str) -> None:
        self._store, self._script = store, list(script)
        self.requests: list[Any] = []

    def __call__(self, method: str, request: Any) -> Any:
        self.requests.append(request)
        if method == "CrossCheck":
            tool = pb.CrossCheck(tool="benchmark_app", seconds={"latency": 0.003}, statistic="median", command="x")
            return pb.CrossCheckResult(tools=[tool, pb.CrossCheck(tool="trtexec", unavailable="is not installed")])
        step = self._script.pop(0) if self._script else True
        if isinstance(step, str):
            raise Failed(step)
        return measured(self._store, step, len(request.engines))


@pytest.fixture
def again(store: BlobStore) -> Iterator[Callable[..., tuple[Remeasurement, Runtime, list[str]]]]:
    opened: list[Services] = []

    def make(*script: bool | str, paired: bool = True) -> tuple[Remeasurement, Runtime, list[str]]:
        runtime, said = Runtime(store, *script), list[str]()
        opened.append(services_of(target_a=FakeLauncher(answer=runtime)))
        return Remeasurement(CELL, results(store, paired), opened[-1], store, said.append), runtime, said

    yield make
    for services in opened:
        services.__exit__()


@pytest.mark.parametrize(
    ("script", "times"),
    [((True,), 1), ((False, True), 2), ((False, False, False, True), REMEASUREMENTS)],
    ids=["at once", "later", "never"],
)
def test_a_choice_is_measured_again_until_it_settles(again: Any, script: tuple[bool, ...], times: int) -> None:
    one, runtime, said = again(*script)
    found = one.confirm()
    assert len(runtime.requests) == len(said) == times and "after the choice" in said[0]
    assert found.timing is not None and found.timing.is_stable == (times < REMEASUREMENTS)
    assert found.timing.comparison is not None and found.timing.comparison.speedup == pytest.approx(2.0)
    assert len({request.run for request in runtime.requests}) == times, "never the kept result of an earlier one"


def test_what_cannot_be_measured_again_says_why(again: Any) -> None:
    one, runtime, _ = again("out of memory")
    found = one.confirm()
    assert found.timing is None and found.error == "out of memory" and len(runtime.requests) == 1


def test_a_cell_without_a_baseline_is_measured_alone(again: Any) -> None:
    one, runtime, _ = again(paired=False)
    found = one.confirm()
    assert len(runtime.requests[0].engines) == 1 and found.timing is not None and found.timing.comparison is None


def test_vendor_tools_stand_between_two_measurements(again: Any) -> None:
    one, runtime, _ = again()
    lines = one.check(2.0)
    assert [line.tool for line in lines] == [
        "pqbench, in the run", "pqbench, now", "benchmark_app", "trtexec", "pqbench, after them",
    ]  # fmt: skip
    assert lines[0].ms["latency"] == 1.0 and lines[2].ms == {"latency": 3.0} and lines[2].command == "x"
    assert lines[3].note == "is not installed" and runtime.requests[1].seconds == 2.0 and MOST_TOOLS > 1


def test_a_cell_that_was_not_timed_is_named(store: BlobStore) -> None:
    with pytest.raises(InvalidInput, match="cell c was not timed"):
        Remeasurement(CELL, {"build": ENGINE, "inputs": {}}, services_of(), store, print)


def test_blobs_are_named_by_their_content(store: BlobStore) -> None:
    assert measured(store, True, 1).samples == measured(store, False, 1).samples != Blob()
