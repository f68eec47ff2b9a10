"""Measure: time an engine, interleaved with its baseline where the measurement is paired."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from google.protobuf import json_format

from pqbench.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from pqbench_orchestrator.steps.step import Json, Needs, Step, Work, engine_of, images_of
from pqbench_orchestrator.store.ledger import StepResult


@dataclass(frozen=True, kw_only=True)
class Measure:
    """How an engine is timed, and in which run and session (`repeat`)."""

    KIND: ClassVar[str] = "measure"
    REUSED: ClassVar[bool] = False

    target: str  # targets with equal options share engines, but each is measured separately
    settings: Json  # message MeasureSettings
    run_name: str
    repeat: int

    def identity(self) -> Json:
        """All fields."""
        return dict(vars(self))

    def run(self, work: Work, step: Step, needs: Needs) -> StepResult:
        """Measure the engine; returns MeasureResult as JSON. `needs`: build, inputs; for a paired one also baseline."""
        request = runtime_pb2.MeasureRequest(
            engines=[engine_of(needs[role]) for role in ("build", "baseline") if role in needs],
            inputs=images_of(needs["inputs"]),
            settings=runtime_pb2.MeasureSettings(**self.settings),  # takes the scenario by its name
            run=f"{self.run_name} {step.key}",  # unique, so that equal requests of other steps do not share a result
            repeat=self.repeat,
        )
        stub, silence = runtime_pb2_grpc.RuntimeServiceStub, measuring_silence(request)
        return json_format.MessageToDict(work.call(step, stub, "Measure", request, silence))


def measuring_silence(request: runtime_pb2.MeasureRequest) -> float:
    """Seconds for which a measurement may report no progress: warm-up, probes of a rate and energy report none."""
    settings = request.settings
    each = settings.warmup_seconds + settings.max_seconds + settings.energy_seconds
    return each * len(request.engines) * max(1, settings.concurrency)
