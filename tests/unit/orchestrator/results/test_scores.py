"""Accuracy from what a score step found."""

from __future__ import annotations

import numpy as np
import pytest

from pqbench_orchestrator.results.scores import accuracy_of
from pqbench_wire.blobs import BlobStore

from ..steps.work import stored


@pytest.mark.parametrize("metrics", [{"top1": 75.0}, {"top5": 100.0}, {}])
def test_accuracy_is_known_whatever_metrics_the_manifest_asks_for(store: BlobStore, metrics: dict[str, float]) -> None:
    right = np.array([[True, True, True, False], [True, True, True, True]])
    score = {"metrics": metrics, "images": 4, "classes": 10, "right": stored(store, right)}
    found = accuracy_of(score, store, is_baseline=False)
    assert found.top1_percent == 75.0 and found.change is not None and found.change.points == -25.0


def test_accuracy_is_unknown_without_labels(store: BlobStore) -> None:
    assert accuracy_of({"metrics": {"sqnr": 40.0}, "images": 4}, store, is_baseline=False).top1_percent is None
