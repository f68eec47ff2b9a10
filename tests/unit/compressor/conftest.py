"""Fixtures: the digits as training images, and what works on a blob store."""

from __future__ import annotations

import numpy as np
import pytest

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench_compressor.checks import Checker
from pqbench_compressor.loading import Loader
from pqbench_compressor.pipeline import Pipeline
from pqbench_compressor.plugins import Context, Training
from pqbench_wire.blobs import BlobStore


@pytest.fixture(scope="module")
def training(digits: tuple[np.ndarray, np.ndarray], digits_preprocessing: Preprocessing) -> Training:
    return Training(images=digits[0][:256], labels=digits[1][:256], preprocessing=digits_preprocessing)


@pytest.fixture(scope="module")
def context(training: Training) -> Context:
    images = training.inputs(slice(4))
    return Context(seed=0, report=lambda *_: None, classes=10, images=images, training_split=training)


@pytest.fixture
def pipeline(store: BlobStore) -> Pipeline:
    return Pipeline(Loader(store=store, allow_code=False), store.root / "training")


@pytest.fixture
def checker(store: BlobStore) -> Checker:
    return Checker(Loader(store=store, allow_code=False))
