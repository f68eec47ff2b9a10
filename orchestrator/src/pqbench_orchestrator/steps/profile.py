"""Profile: the time of each layer by the backend's own profiler, apart from any measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from google.protobuf import json_format

from pqbench.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from pqbench_orchestrator.steps.step import Json, Needs, Step, Work, engine_of, images_of
from pqbench_orchestrator.store.ledger import StepResult


@dataclass(frozen=True, kw_only=True)
class Profile:
    """For how long an engine is profiled, and in which run."""

    KIND: ClassVar[str] = "profile"
    REUSED: ClassVar[bool] = False

    target: str  # targets with equal options share engines, but each is profiled separately
    seconds: float
    run_name: str

    def identity(self) -> Json:
        """All fields."""
        return dict(vars(self))

    def run(self, work: Work, step: Step, needs: Needs) -> StepResult:
        """Profile the engine; returns ProfileResult as JSON. `needs`: build, inputs."""
        request = runtime_pb2.ProfileRequest(
            engine=engine_of(needs["build"]),
            inputs=images_of(needs["inputs"]),
            seconds=self.seconds,
            run=f"{self.run_name} {step.key}",
        )
        return json_format.MessageToDict(work.call(step, runtime_pb2_grpc.RuntimeServiceStub, "Profile", request))
