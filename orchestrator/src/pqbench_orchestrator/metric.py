"""What a metric is: a number from the outputs of a whole split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np

from pqbench_wire.catalog import Catalog

Compared = Literal["labels", "classes", "values"]


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Outputs float32 [N, C] of a variant and of the baseline on the same target, labels int64 [N].

    A model that does not give one [N, classes] has all its outputs side by side, and nothing to classify.
    """

    variant: np.ndarray
    baseline: np.ndarray
    labels: np.ndarray

    @property
    def right(self) -> tuple[np.ndarray, np.ndarray]:
        """Whether variant and baseline put each image into its label's class, bool [N] each."""
        return self.variant.argmax(1) == self.labels, self.baseline.argmax(1) == self.labels


class Metric(Protocol):
    """One number; None where it does not apply."""

    REQUIRES: ClassVar[tuple[str, ...]]
    TITLE: ClassVar[str]  # column name, with the unit
    COMPARES: ClassVar[Compared]  # what it needs besides the outputs

    def score(self, outputs: Outputs) -> float | None:
        """The metric over all images."""
        ...


METRICS = Catalog("metric", "pqbench_orchestrator.metrics", Metric)
