"""Try: load the exported artifact alone, with the runtime's defaults, as a user would, and check its outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from google.protobuf import json_format

from pqbench.common.v1.common_pb2 import Blob, Preprocessing
from pqbench.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from pqbench_orchestrator.steps.step import Json, Needs, Step, Work, artifact_of, images_of
from pqbench_orchestrator.store.ledger import StepResult
from pqbench_wire.shared import fidelity


@dataclass(frozen=True, kw_only=True)
class TryArtifact:
    """Which artifact to try, in which backend, with which batch sizes."""

    KIND: ClassVar[str] = "try"
    REUSED: ClassVar[bool] = True

    backend: str
    form: str  # name in Form
    batch_sizes: tuple[int, ...]
    preprocessing: Json  # message Preprocessing

    def identity(self) -> Json:
        """All fields."""
        return dict(vars(self))

    def run(self, work: Work, step: Step, needs: Needs) -> StepResult:
        """Try the artifact; returns TryArtifactResult as JSON. `needs`: variant, inputs, fidelity."""
        request = runtime_pb2.TryArtifactRequest(
            backend=self.backend,
            artifact=artifact_of(step, needs["variant"], self.form),
            preprocessing=json_format.ParseDict(self.preprocessing, Preprocessing()),
            inputs=images_of(needs["inputs"]),
            reference=json_format.ParseDict(needs["variant"]["reference"], Blob()),
            batch_sizes=self.batch_sizes,
            least_db=fidelity.least_of_artifact(needs["fidelity"]["sqnr_db"]),
        )
        return json_format.MessageToDict(work.call(step, runtime_pb2_grpc.RuntimeServiceStub, "TryArtifact", request))
