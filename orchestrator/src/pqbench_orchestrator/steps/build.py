"""Build: an engine of a variant for a target and a batch size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from google.protobuf import json_format

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from pqbench_orchestrator.steps.step import Json, Needs, Step, Work, artifact_of
from pqbench_orchestrator.store.ledger import StepResult


@dataclass(frozen=True, kw_only=True)
class Build:
    """What to build: the backend with its options, the form of the artifact, and the batch size."""

    KIND: ClassVar[str] = "build"
    REUSED: ClassVar[bool] = True

    backend: str
    options: str  # as JSON, with every default filled in
    form: str  # name in Form
    batch_size: int
    preprocessing: Json  # message Preprocessing
    replicate: int = 0

    def identity(self) -> Json:
        """All fields: a replicate is a separate engine."""
        return dict(vars(self))

    def run(self, work: Work, step: Step, needs: Needs) -> StepResult:
        """Build the engine; returns BuildEngineResult as JSON. `needs`: variant."""
        request = runtime_pb2.BuildEngineRequest(
            backend=self.backend,
            options_json=self.options,
            artifact=artifact_of(step, needs["variant"], self.form),
            batch_size=self.batch_size,
            preprocessing=json_format.ParseDict(self.preprocessing, Preprocessing()),
            replicate=self.replicate,
        )
        return json_format.MessageToDict(work.call(step, runtime_pb2_grpc.RuntimeServiceStub, "BuildEngine", request))
