"""A cell's engine measured again: beside the makers' own tools (`pqbench check`), and after a choice (`recommend`)."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf import json_format

from pqbench.common.v1.common_pb2 import Images
from pqbench.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from pqbench_orchestrator.execute import measuring_silence
from pqbench_orchestrator.services import Services
from pqbench_orchestrator.tables import Row, time_columns
from pqbench_wire.blobs import BlobStore
from pqbench_wire.client import blobs_in
from pqbench_wire.errors import InvalidInput
from pqbench_wire.jobs import WAITING

MS = 1000
MOST_TOOLS = 4  # that one cross-check runs, each as long
OURS = "host time around the call, host array in, host array out"
Line = dict[str, Any]  # who, definition, statistic, latency, compute, h2d, d2h (ms), note
Results = Mapping[str, dict[str, Any]]  # of a cell's steps, by role


class Again:
    """One cell, and the service that its target runs in."""

    def __init__(
        self, row: Row, results: Results, services: Services, store: BlobStore, say: Callable[[str], None]
    ) -> None:
        if "measure" not in results:
            raise InvalidInput(f"cell {row['Cell']} was not timed")
        self._row, self._results, self._services, self._store, self._say = row, results, services, store, say
        self._inputs = json_format.ParseDict(results["inputs"], Images())
        self._before = json_format.ParseDict(results["measure"], runtime_pb2.MeasureResult())

    def confirm(self) -> runtime_pb2.MeasureResult:
        """A fresh measurement, interleaved with the baseline's engine where the cell has a baseline."""
        paired = len(self._before.timings) > 1 and "baseline build" in self._results
        result = self._measure(["build", *(["baseline build"] if paired else [])])
        self._services.client(self._place).pull(self._store, [result.samples])
        return result

    def check(self, seconds: float) -> list[Line]:
        """What the run said, what Measure says now, what the makers' tools say, and what Measure says after them."""
        lines = [_ours("pqbench, in the run", self._before)]
        self._say(f"measuring {self._row['Recipe']}, batch {self._row['Batch Size']}")
        lines.append(_ours("pqbench, now", self._measure(["build"])))
        self._say("running the other tools")
        client = self._services.client(self._place)
        stub = runtime_pb2_grpc.RuntimeServiceStub(client.channel)
        asked = runtime_pb2.CrossCheckRequest(
            engine=self._engine("build"), inputs=self._inputs, seconds=seconds, run=str(uuid.uuid4())
        )
        lines += [
            _theirs(tool) for tool in client.result(stub.CrossCheck, asked, self._tell, MOST_TOOLS * seconds).tools
        ]
        self._say("measuring once more")
        return [*lines, _ours("pqbench, after them", self._measure(["build"]))]

    @property
    def _place(self) -> str:
        return f"target {self._row['Target']}"

    def _engine(self, role: str) -> runtime_pb2.Engine:
        return json_format.ParseDict(self._results[role]["engine"], runtime_pb2.Engine())

    def _measure(self, roles: list[str]) -> runtime_pb2.MeasureResult:
        """Never the kept result of an earlier one: each has a run's name of its own."""
        client = self._services.client(self._place)
        stub = runtime_pb2_grpc.RuntimeServiceStub(client.channel)
        asked = runtime_pb2.MeasureRequest(
            engines=[self._engine(role) for role in roles],
            inputs=self._inputs,
            settings=self._before.settings,
            run=f"again {uuid.uuid4()}",
        )
        client.push(self._store, blobs_in(asked))
        result: runtime_pb2.MeasureResult = client.result(stub.Measure, asked, self._tell, measuring_silence(asked))
        return result

    def _tell(self, event: Any) -> None:
        """Say that the machine is waited for; measuring itself is left alone."""
        if event.WhichOneof("event") == "progress" and event.progress.stage == WAITING:
            self._say(event.progress.message)


def confirmed_row(row: Row, result: runtime_pb2.MeasureResult, store: BlobStore) -> Row:
    """The columns of a measurement made after the choice."""
    return time_columns(result, store.archive(result.samples), row["Batch Size"], row["Scenario"])


def _ours(who: str, result: runtime_pb2.MeasureResult) -> Line:
    timing = result.timings[0]
    parts = {part: time.median * MS for part, time in timing.device.items()}
    return {"who": who, "definition": OURS, "statistic": "median", "latency": timing.median * MS, **parts,
            "note": timing.unstable_reason}  # fmt: skip


def _theirs(tool: runtime_pb2.CrossCheck) -> Line:
    parts = {part: seconds * MS for part, seconds in tool.seconds.items()}
    return {"who": tool.tool, "definition": tool.definition, "statistic": tool.statistic, **parts,
            "note": tool.unavailable, "command": tool.command}  # fmt: skip
