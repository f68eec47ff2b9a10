"""Metrics of a prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from pqbench_orchestrator.dataset import Data, Split
from pqbench_orchestrator.steps.score import Score
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import Failed

from .work import step_of, stored, work


def scored(store: BlobStore, outputs: int, mapped: tuple[int, ...] | None = None) -> dict[str, Any]:
    """Six images of three classes, of which the model is sure of one output each; the baseline has the same."""
    sure = np.array([0, 5, 2, 0, 5, 2])
    labels = np.array([0, 1, 2, 2, 1, 0])
    values = np.zeros((6, outputs), np.float32)
    values[np.arange(6), np.minimum(sure, outputs - 1)] = 1
    split = Split(open=lambda _: Image.new("L", (1, 1)), labels=labels, fingerprint="x")
    data = Data(splits={"test": split}, classes=("a", "b", "c"), outputs=mapped)
    predicted = {"outputs": stored(store, values)}
    needs = {"predict": predicted, "baseline": predicted, "inputs": {"labels": stored(store, labels)}}
    spec = Score(dataset="d", fingerprint="x", is_labelled=True, metrics=("top1",))
    return spec.run(work(store, datasets={"d": data}), step_of(spec), needs)


def test_a_model_of_more_outputs_than_classes_is_scored_on_all_or_on_those_of_its_map(store: BlobStore) -> None:
    everything = scored(store, 10)
    assert everything["metrics"]["top1"] == pytest.approx(100 * 2 / 6) and everything["classes"] == 10
    ours = scored(store, 10, mapped=(0, 5, 2))
    assert ours["metrics"]["top1"] == pytest.approx(100 * 4 / 6) and ours["classes"] == 3
    assert store.array_of(ours["right"])[0].tolist() == [True, True, True, False, True, False]


@pytest.mark.parametrize(
    ("mapped", "problem"),
    [
        (None, "dataset d has label 2; the model has 2 outputs"),
        ((0, 1, 7), "d maps a class to output 7; the model has 2"),
    ],
)
def test_a_model_of_fewer_outputs_than_labels_is_not_scored(
    store: BlobStore, mapped: tuple[int, ...] | None, problem: str
) -> None:
    with pytest.raises(Failed, match=problem):
        scored(store, 2, mapped)
