"""Compress: apply steps of a recipe to a checkpoint, and export the variant in the forms that are wanted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

from google.protobuf import json_format

from pqbench.common.v1.common_pb2 import Blob
from pqbench.compressor.v1 import compressor_pb2, compressor_pb2_grpc
from pqbench_orchestrator.steps.step import Json, Needs, Step, Work, images_of
from pqbench_orchestrator.store.ledger import StepResult


@dataclass(frozen=True, kw_only=True)
class Compress:
    """Which model, which steps, which forms."""

    KIND: ClassVar[str] = "compress"
    REUSED: ClassVar[bool] = True

    model: Json  # Model
    steps: tuple[Json, ...]  # Step each
    forms: tuple[str, ...]  # names in Form
    seed: int

    def identity(self) -> Json:
        """All of it."""
        return asdict(self)

    def run(self, work: Work, step: Step, needs: Needs) -> StepResult:
        """CompressResult: checkpoint, statistics, artifacts. `needs`: verification; training, checkpoint, baseline."""
        request = compressor_pb2.CompressRequest(
            model=json_format.ParseDict(self.model, compressor_pb2.Model()),
            steps=[json_format.ParseDict(one, compressor_pb2.Step()) for one in self.steps],
            forms=self.forms,
            verification=images_of(needs["verification"]),
            seed=self.seed,
        )
        if "training" in needs:
            request.training.CopyFrom(images_of(needs["training"]))
        for role in ("checkpoint", "baseline"):
            if role in needs:
                getattr(request, role).CopyFrom(json_format.ParseDict(needs[role]["checkpoint"], Blob()))
        return json_format.MessageToDict(
            work.call(step, compressor_pb2_grpc.CompressorServiceStub, "Compress", request)
        )
