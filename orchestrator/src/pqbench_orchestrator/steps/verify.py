"""Verify: compare an engine's outputs with the model's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pqbench.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from pqbench_orchestrator.steps.step import Json, Needs, Step, Work, engine_of, images_of
from pqbench_orchestrator.store.ledger import StepResult
from pqbench_wire.errors import Failed
from pqbench_wire.shared import fidelity


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Whether the engine is a baseline, whose outputs must match the model's; for a variant they are only compared."""

    KIND: ClassVar[str] = "verify"
    REUSED: ClassVar[bool] = True

    is_baseline: bool

    def identity(self) -> Json:
        """All fields."""
        return dict(vars(self))

    def run(self, work: Work, step: Step, needs: Needs) -> StepResult:
        """Compare the outputs; returns {sqnr_db, images}. `needs`: build, variant, inputs.

        Raises Failed where the outputs have another shape, and for a baseline whose outputs differ too much.
        """
        request = runtime_pb2.PredictRequest(engine=engine_of(needs["build"]), inputs=images_of(needs["inputs"]))
        result = work.call(step, runtime_pb2_grpc.RuntimeServiceStub, "Predict", request)
        outputs, reference = work.store.array(result.outputs), work.store.array_of(needs["variant"]["reference"])
        if outputs.shape != reference.shape:
            raise Failed(
                f"computes something else: outputs {list(outputs.shape)}, the model's own are {list(reference.shape)}"
            )
        decibels = fidelity.sqnr(reference, outputs)
        least = fidelity.least_of_engine(needs["build"].get("executed", {}))
        if self.is_baseline and decibels < least:
            raise Failed(
                f"computes something else: the engine's outputs have a fidelity of {decibels:.1f} dB "
                f"on {len(outputs)} images; its precision reaches {least:.0f} dB at least"
            )
        return {"sqnr_db": decibels, "images": len(outputs)}
