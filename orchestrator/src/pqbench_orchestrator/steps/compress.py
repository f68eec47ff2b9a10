"""Compress: apply steps of a recipe to a checkpoint, and export the result in the requested forms."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from google.protobuf import json_format

from pqbench.common.v1.common_pb2 import Blob
from pqbench.compressor.v1 import compressor_pb2, compressor_pb2_grpc
from pqbench_orchestrator.config.recipes import Step as RecipeStep
from pqbench_orchestrator.steps.step import Json, Needs, Step, Work, images_of
from pqbench_orchestrator.store.ledger import StepResult
from pqbench_wire.blobs import blob_of

OWN_CODE = "code"  # the plug-in for a user's own file


@dataclass(frozen=True, kw_only=True)
class Compress:
    """What to compress: the model, the recipe's steps to apply, and the forms to export."""

    KIND: ClassVar[str] = "compress"
    REUSED: ClassVar[bool] = True

    model: Json  # message Model
    steps: tuple[Json, ...]  # messages Step
    forms: tuple[str, ...]  # names in Form
    seed: int

    def identity(self) -> Json:
        """All fields."""
        return dict(vars(self))

    def run(self, work: Work, step: Step, needs: Needs) -> StepResult:
        """Compress the model; returns CompressResult as JSON: checkpoint, statistics, artifacts.

        `needs`: verification; where the steps want them also training, checkpoint and baseline.
        """
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


def step_message(step: RecipeStep) -> compressor_pb2.Step:
    """A manifest's step as the message that the compressor takes; of a user's own class it has the blob of its file."""
    if not step.is_own:
        config_json = json.dumps(step.config, sort_keys=True)
        return compressor_pb2.Step(kind=step.kind, plugin=step.method, config_json=config_json)
    path, _, name = step.method.rpartition(":")
    config_json = json.dumps({"name": name, "arguments": step.config}, sort_keys=True)
    return compressor_pb2.Step(kind=step.kind, plugin=OWN_CODE, config_json=config_json, code=blob_of(Path(path)))
