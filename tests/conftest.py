"""What all tests share: where the real data are, and one image preparation."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pqbench.common.v1.common_pb2 import Images, Preprocessing
from pqbench_wire.blobs import BlobStore

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images and pretrained weights."""
    folder = Path(os.environ.get("PQBENCH_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("skipped: no ../shared/data")
    return folder.resolve()


@pytest.fixture(scope="session")
def shared_cases() -> Path:
    """Inputs after public bug reports, one mistake or oddity each."""
    folder = Path(os.environ.get("PQBENCH_TEST_CASES", ROOT.parent / "shared" / "cases"))
    if not folder.is_dir():
        pytest.skip("skipped: no ../shared/cases")
    return folder.resolve()


@pytest.fixture(scope="session")
def jpeg_folder(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10,000 JPEG images of CIFAR-10's test split, one sub-folder a class."""
    folder = tmp_path_factory.mktemp("jpeg")
    with zipfile.ZipFile(shared_data / "cifar10_jpeg_test.zip") as archive:
        archive.extractall(folder)
    return folder / "test"


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    """An empty blob store."""
    return BlobStore(tmp_path / "blobs")


@pytest.fixture(scope="session")
def digits_preprocessing() -> Preprocessing:
    """The input of the digits network."""
    return Preprocessing(height=16, width=16, channels=1, interpolation="bilinear", mean=[0.5], std=[0.5])


@pytest.fixture(scope="session")
def digits(digits_preprocessing: Preprocessing) -> tuple[np.ndarray, np.ndarray]:
    """The training digits: images uint8 [1437, 16, 16, 1], labels int64 [1437]."""
    from pqbench_orchestrator.dataset import DATASETS, fit

    split = DATASETS.load("digits").load(DATASETS.configure("digits", "{}"), Path()).split("train")
    images = np.stack([fit(split.open(i), digits_preprocessing) for i in range(len(split.labels))])
    return images, split.labels


@pytest.fixture
def digit_images(store: BlobStore, digits: tuple[np.ndarray, np.ndarray]) -> Images:
    """The first 64 training digits in the store."""
    return Images(images=store.put_array(digits[0][:64]), labels=store.put_array(digits[1][:64]))
