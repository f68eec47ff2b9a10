"""The accuracy of a cell on the test split, on held-out training images, and on each half of the test split."""

from __future__ import annotations

import numpy as np

from pqbench_orchestrator.metric import METRICS
from pqbench_orchestrator.results.cell import Accuracy, Change, PartAccuracy
from pqbench_orchestrator.statistics import paired_difference, selection_half, wilson
from pqbench_orchestrator.store.ledger import StepResult
from pqbench_wire.blobs import BlobStore


def accuracy_of(score: StepResult, store: BlobStore, is_baseline: bool) -> Accuracy:
    """The accuracy that a score step found, compared with the baseline's unless the cell is a baseline itself."""
    metrics = score["metrics"]
    top1 = metrics.get("top1")
    low = high = change = p = indistinguishable = None
    if "right" in score:
        variant, baseline = store.array_of(score["right"])
        top1 = 100 * float(variant.mean())  # also where the manifest's metrics leave it out: recipes are judged by it
        low, high = (100 * bound for bound in wilson(int(variant.sum()), len(variant)))
        if not is_baseline:
            paired = paired_difference(variant, baseline)
            change = Change(points=paired.points, low=paired.low, high=paired.high)
            p, indistinguishable = paired.p, paired.indistinguishable
    return Accuracy(
        top1_percent=top1,
        metrics={METRICS.load(name).TITLE: value for name, value in metrics.items()},
        images=score["images"],
        classes=score.get("classes"),
        stopped_early=score.get("stopped") or None,
        low_percent=low,
        high_percent=high,
        change=change,
        mcnemar_p=p,
        is_indistinguishable=indistinguishable,
    )


def held_out_of(score: StepResult, store: BlobStore) -> PartAccuracy | None:
    """Accuracy on held-out training images, on which recipes are chosen; None without labels."""
    if "right" not in score:
        return None
    variant, baseline = store.array_of(score["right"])
    return _part(variant, baseline)


def halves_of(
    score: StepResult, inputs: StepResult, predict: StepResult, store: BlobStore, seed: int
) -> tuple[PartAccuracy | None, PartAccuracy | None]:
    """Accuracy on the half of the test split that recipes are chosen on, and on the other half, for reporting.

    None where a half has no scored image, or the images have no labels.
    """
    if "right" not in score:
        return None, None
    variant, baseline = store.array_of(score["right"])
    selecting = selection_half(store.array_of(inputs["labels"]), seed)
    if "indices" in predict:  # scoring was stopped early: `right` is of these images only
        selecting = selecting[store.array_of(predict["indices"])]
    first, second = (_part(variant[part], baseline[part]) if part.any() else None for part in (selecting, ~selecting))
    return first, second


def _part(variant: np.ndarray, baseline: np.ndarray) -> PartAccuracy:
    """Accuracy on some of the images; `variant` and `baseline`: which images each gets right, bool [n]."""
    paired = paired_difference(variant, baseline)
    change = Change(points=paired.points, low=paired.low, high=paired.high)
    return PartAccuracy(percent=100 * float(variant.mean()), images=len(variant), change=change)
