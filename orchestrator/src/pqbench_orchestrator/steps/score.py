"""Score: metrics of a prediction over all its images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from google.protobuf import json_format

from pqbench_orchestrator.dataset import Data
from pqbench_orchestrator.metric import METRICS, Outputs
from pqbench_orchestrator.steps.step import Json, Needs, Step, Work, images_of
from pqbench_orchestrator.store.ledger import StepResult
from pqbench_wire.errors import Failed


@dataclass(frozen=True, kw_only=True)
class Score:
    """Which metrics to compute, on which split."""

    KIND: ClassVar[str] = "score"
    REUSED: ClassVar[bool] = True

    dataset: str  # its label
    fingerprint: str  # of the split's content
    is_labelled: bool
    metrics: tuple[str, ...]

    def identity(self) -> Json:
        """All that decides the score; the dataset's label does not, and the fingerprint stands for the data."""
        return {"metrics": self.metrics, "data": self.fingerprint, "labelled": self.is_labelled}

    def run(self, work: Work, step: Step, needs: Needs) -> StepResult:
        """Compute the metrics; returns {metrics, images, stopped}, for a classifier with labels also {classes, right}.

        `right` is a blob bool [2, N]: which images the variant and the baseline get right. `stopped` says why the
        prediction stopped early, or is empty. `needs`: predict, baseline, inputs. Where the dataset maps its classes to
        a model's outputs, only these outputs are scored. Raises Failed where a label has no output.
        """
        store, data = work.store, work.datasets[self.dataset]
        labels = np.asarray(store.array(images_of(needs["inputs"]).labels))
        variant, baseline = (store.array_of(needs[role]["outputs"]) for role in ("predict", "baseline"))
        if "indices" in needs["predict"]:
            indices = store.array_of(needs["predict"]["indices"])
            labels, baseline = labels[indices], baseline[indices]
        classifies = not needs["predict"].get("flattened", False)
        if classifies and self.is_labelled:
            _check_labels(f"dataset {self.dataset}", data, labels, variant.shape[1])
        columns = list(data.outputs) if classifies and data.outputs is not None else slice(None)
        outputs = Outputs(variant=variant[:, columns], baseline=baseline[:, columns], labels=labels)
        applies = {"labels": classifies and self.is_labelled, "classes": classifies, "values": True}
        metrics = {name: METRICS.load(name) for name in self.metrics}
        scored: dict[str, Any] = {
            "stopped": needs["predict"].get("stopped", ""),
            "metrics": {name: m.score(outputs) if applies[m.COMPARES] else None for name, m in metrics.items()},
            "images": len(labels),
        }
        if applies["labels"]:
            scored["classes"] = outputs.variant.shape[1]
            scored["right"] = json_format.MessageToDict(store.put_array(np.stack(outputs.right)))
        return scored


def _check_labels(name: str, data: Data, labels: np.ndarray, count: int) -> None:
    """Raise Failed where a label's output is not among the `count` outputs of the model."""
    if data.outputs is not None and max(data.outputs) >= count:
        raise Failed(f"{name} maps a class to output {max(data.outputs)}; the model has {count} outputs")
    if data.outputs is None and int(labels.max()) >= count:
        raise Failed(f"{name} has label {int(labels.max())}; the model has {count} outputs")
