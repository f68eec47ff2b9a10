"""What a metric is: a number computed from a variant's and its baseline's outputs on a split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np

from pqbench_wire.catalog import Catalog

Compared = Literal["labels", "classes", "values"]


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Outputs float32 [N, C] of a variant and of the baseline on the same target, labels int64 [N].

    Where a model's output is not a single array [N, classes], all its outputs are flattened side by side, and only
    metrics that compare "values" apply.
    """

    variant: np.ndarray
    baseline: np.ndarray
    labels: np.ndarray

    @property
    def right(self) -> tuple[np.ndarray, np.ndarray]:
        """Whether the variant, and the baseline, put each image into its label's class: bool [N] each."""
        return self.variant.argmax(1) == self.labels, self.baseline.argmax(1) == self.labels


class Metric(Protocol):
    """What a module in metrics/ provides."""

    REQUIRES: ClassVar[tuple[str, ...]]
    TITLE: ClassVar[str]  # column name, with the unit
    COMPARES: ClassVar[Compared]  # "labels": needs a classifier with labels; "classes": a classifier; "values": neither

    def score(self, outputs: Outputs) -> float | None:
        """The metric over all images; None where it is not defined."""
        ...


METRICS = Catalog("metric", "pqbench_orchestrator.metrics", Metric)
