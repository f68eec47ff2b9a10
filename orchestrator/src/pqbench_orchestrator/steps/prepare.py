"""Prepare: decode and resize a split of a dataset for a model's preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from google.protobuf import json_format

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench_orchestrator.dataset import SplitName, prepare
from pqbench_orchestrator.steps.step import Json, Needs, Step, Work
from pqbench_orchestrator.store.ledger import StepResult


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Which images to prepare, and for which preprocessing."""

    KIND: ClassVar[str] = "prepare"
    REUSED: ClassVar[bool] = True

    dataset: str  # its label
    fingerprint: str  # of the split's content
    split: SplitName
    limit: int | None  # size of a subset drawn with the seed; None: all
    seed: int
    preprocessing: Json  # message Preprocessing
    held_out: int | None = None  # take only the held-out part, split off with this seed; None: take all

    def identity(self) -> Json:
        """All fields but the dataset's label: the fingerprint stands for the data."""
        return {key: value for key, value in vars(self).items() if key != "dataset"}

    def run(self, work: Work, step: Step, needs: Needs) -> StepResult:
        """Prepare the images; returns the message Images as JSON. It needs no other step.

        Its blobs are images uint8 [N, H, W, C], or other inputs in the preprocessing's order, and labels int64 [N].
        """
        data = work.datasets[self.dataset]
        images = prepare(
            data.split(self.split),
            json_format.ParseDict(self.preprocessing, Preprocessing()),
            work.store,
            limit=self.limit,
            seed=self.seed,
            held_out=self.held_out,
            outputs=data.outputs,
            progress=lambda fraction: work.progress(step, "prepare", fraction),
        )
        return json_format.MessageToDict(images)
