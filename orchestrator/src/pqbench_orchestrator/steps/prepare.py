"""Prepare: decode and resize a dataset's split once for a preprocessing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

from google.protobuf import json_format

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench_orchestrator.dataset import SplitName, prepare
from pqbench_orchestrator.steps.step import Json, Needs, Step, Work
from pqbench_orchestrator.store.ledger import StepResult


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Which images, for which preprocessing."""

    KIND: ClassVar[str] = "prepare"
    REUSED: ClassVar[bool] = True

    dataset: str  # its label
    fingerprint: str  # of the split's content
    split: SplitName
    limit: int | None  # a seeded choice of so many; None: all
    seed: int
    preprocessing: Json  # Preprocessing
    held_out: int | None = None  # the seed of the held-out part; None: the rest

    def identity(self) -> Json:
        """A label decides nothing."""
        return {key: value for key, value in asdict(self).items() if key != "dataset"}

    def run(self, work: Work, step: Step, needs: Needs) -> StepResult:
        """Images: blobs of uint8 [N, H, W, C], or of other inputs by name, and of labels int64 [N]."""
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
