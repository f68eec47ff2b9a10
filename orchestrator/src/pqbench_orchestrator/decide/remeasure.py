"""Measures a cell's engine again: with vendor tools (`pqbench check`), and after a choice (`pqbench recommend`)."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import json_format

from pqbench.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from pqbench_orchestrator.execution.services import Services
from pqbench_orchestrator.planning.places import of_target
from pqbench_orchestrator.results.cell import CellResult, Confirmation
from pqbench_orchestrator.results.timing import timing_of
from pqbench_orchestrator.steps.measure import measuring_silence
from pqbench_orchestrator.steps.step import Needs, engine_of, images_of
from pqbench_wire.blobs import BlobStore
from pqbench_wire.client import blobs_in
from pqbench_wire.errors import InvalidInput, PqbenchError
from pqbench_wire.jobs import WAITING

MS = 1000
REMEASUREMENTS = 3  # at most, of a chosen cell, until its times are stable
MOST_TOOLS = 4  # upper bound of the tools in a cross-check, for its timeout
PARTS = ("latency", "compute", "h2d", "d2h")
DEFINITION = "host time around the call, host array in, host array out"


@dataclass(frozen=True, kw_only=True)
class Line:
    """What one tool measured of an engine."""

    tool: str
    definition: str  # what the tool times
    statistic: str  # median or mean
    ms: Mapping[str, float] = field(default_factory=dict)  # by part, see PARTS
    note: str = ""  # such as why there are no figures
    command: str | None = None  # of a vendor tool


class Remeasurement:
    """Measures one cell again; `results` are those of its steps by role. Raises InvalidInput if it was not timed."""

    def __init__(
        self, cell: CellResult, results: Needs, services: Services, store: BlobStore, say: Callable[[str], None]
    ) -> None:
        if "measure" not in results:
            raise InvalidInput(f"cell {cell.key} was not timed")
        self._cell, self._results, self._services, self._store, self._say = cell, results, services, store, say
        self._inputs = images_of(results["inputs"])
        self._before = json_format.ParseDict(results["measure"], runtime_pb2.MeasureResult())

    def confirm(self) -> Confirmation:
        """Measure again until the times are stable, at most REMEASUREMENTS times; returns the last measurement.

        It is interleaved with the baseline's engine where the one in the run was. An error is part of the result.
        """
        for _ in range(REMEASUREMENTS):
            self._say(f"measuring {self._cell.recipe} on {self._cell.target} again, after the choice")
            try:
                found = self._confirmation()
            except PqbenchError as error:  # the run itself is complete: the recommendation shows the error
                found = Confirmation(error=str(error))
            if found.timing is None or found.timing.is_stable:
                break
        return found

    def check(self, seconds: float) -> list[Line]:
        """A line for the run's measurement, for a new one, for each vendor tool, and for another new one after these.

        `seconds`: how long each vendor tool runs.
        """
        lines = [_own_line("pqbench, in the run", self._before)]
        self._say(f"measuring {self._cell.recipe}, batch {self._cell.batch_size}")
        lines.append(_own_line("pqbench, now", self._measure(["build"])))
        self._say("running the other tools")
        client = self._services.client(self._place)
        stub = runtime_pb2_grpc.RuntimeServiceStub(client.channel)
        request = runtime_pb2.CrossCheckRequest(
            engine=engine_of(self._results["build"]), inputs=self._inputs, seconds=seconds, run=str(uuid.uuid4())
        )
        found = client.result(stub.CrossCheck, request, self._tell, MOST_TOOLS * seconds)
        lines += [_vendor_line(tool) for tool in found.tools]
        self._say("measuring once more")
        return [*lines, _own_line("pqbench, after them", self._measure(["build"]))]

    def _confirmation(self) -> Confirmation:
        is_paired = len(self._before.timings) > 1 and "baseline build" in self._results
        result = self._measure(["build", *(["baseline build"] if is_paired else [])])
        self._services.client(self._place).pull(self._store, [result.samples])
        arrays = self._store.archive(result.samples)
        return Confirmation(timing=timing_of(result, arrays, self._cell.batch_size, self._cell.scenario))

    @property
    def _place(self) -> str:
        return of_target(self._cell.target)

    def _measure(self, roles: list[str]) -> runtime_pb2.MeasureResult:
        """Measure the engines of these roles; a unique name of the run keeps the service from reusing a result."""
        client = self._services.client(self._place)
        stub = runtime_pb2_grpc.RuntimeServiceStub(client.channel)
        request = runtime_pb2.MeasureRequest(
            engines=[engine_of(self._results[role]) for role in roles],
            inputs=self._inputs,
            settings=self._before.settings,
            run=f"again {uuid.uuid4()}",
        )
        client.push(self._store, blobs_in(request))
        result: runtime_pb2.MeasureResult = client.result(stub.Measure, request, self._tell, measuring_silence(request))
        return result

    def _tell(self, event: Any) -> None:
        """Show that the service waits for the machine; while it measures, nothing is shown, so as not to disturb it."""
        if event.WhichOneof("event") == "progress" and event.progress.stage == WAITING:
            self._say(event.progress.message)


def _own_line(tool: str, result: runtime_pb2.MeasureResult) -> Line:
    timing = result.timings[0]
    parts = {part: time.median * MS for part, time in timing.device.items()}
    return Line(
        tool=tool, definition=DEFINITION, statistic="median", ms={"latency": timing.median * MS} | parts,
        note=timing.unstable_reason,
    )  # fmt: skip


def _vendor_line(tool: runtime_pb2.CrossCheck) -> Line:
    ms = {part: seconds * MS for part, seconds in tool.seconds.items()}
    return Line(
        tool=tool.tool, definition=tool.definition, statistic=tool.statistic, ms=ms, note=tool.unavailable,
        command=tool.command,
    )  # fmt: skip
