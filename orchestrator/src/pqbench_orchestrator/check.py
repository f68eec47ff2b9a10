"""`pqbench check`: a cell's engine measured again, beside the makers' own tools with the same settings."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from pqbench.common.v1.common_pb2 import Images
from pqbench.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from pqbench_orchestrator.ledger import cell_of
from pqbench_orchestrator.manifest import Inventory, load_manifest
from pqbench_orchestrator.services import from_inventory
from pqbench_wire.blobs import BlobStore
from pqbench_wire.client import blobs_in
from pqbench_wire.errors import InvalidInput

MS = 1000
OURS = "host time around the call, host array in, host array out"
Line = dict[str, Any]  # who, definition, statistic, latency, compute, h2d, d2h (ms), note


def check_cell(
    run: Path, cell: str, data: Path, inventory: Inventory, seconds: float, say: Callable[[str], None]
) -> list[Line]:
    """What the run said of a cell, what Measure says now, what the tools say, and what Measure says after them.

    The service is started where the inventory has the cell's target. Raises InvalidInput, or what the service raises.
    """
    row, results = cell_of(run, cell)
    if "measure" not in results:
        raise InvalidInput(f"cell {cell} was not timed")
    engine = json_format.ParseDict(results["build"]["engine"], runtime_pb2.Engine())
    inputs = json_format.ParseDict(results["inputs"], Images())
    before = json_format.ParseDict(results["measure"], runtime_pb2.MeasureResult())
    manifest, store = load_manifest(run / "manifest.yaml"), BlobStore(data / "blobs")
    with from_inventory(manifest, inventory, data, run / "logs", False) as services:
        say(f"starting {row['Target']}")
        client = services.client(f"target {row['Target']}")
        stub = runtime_pb2_grpc.RuntimeServiceStub(client.channel)
        client.push(store, [*blobs_in(engine), *blobs_in(inputs)])

        def measured(who: str) -> Line:
            say(f"measuring {row['Recipe']}, batch {row['Batch Size']}")
            asked = runtime_pb2.MeasureRequest(
                engines=[engine], inputs=inputs, settings=before.settings, run=f"check {uuid.uuid4()}"
            )
            return _ours(who, client.result(stub.Measure, asked))

        lines = [_ours("pqbench, in the run", before), measured("pqbench, now")]
        say("running the other tools")
        asked = runtime_pb2.CrossCheckRequest(engine=engine, inputs=inputs, seconds=seconds, run=str(uuid.uuid4()))
        lines += [_theirs(tool) for tool in client.result(stub.CrossCheck, asked).tools]
        return [*lines, measured("pqbench, after them")]


def _ours(who: str, result: runtime_pb2.MeasureResult) -> Line:
    timing = result.timings[0]
    parts = {part: time.median * MS for part, time in timing.device.items()}
    return {"who": who, "definition": OURS, "statistic": "median", "latency": timing.median * MS, **parts,
            "note": timing.unstable_reason}  # fmt: skip


def _theirs(tool: runtime_pb2.CrossCheck) -> Line:
    parts = {part: seconds * MS for part, seconds in tool.seconds.items()}
    return {"who": tool.tool, "definition": tool.definition, "statistic": tool.statistic, **parts,
            "note": tool.unavailable, "command": tool.command}  # fmt: skip
