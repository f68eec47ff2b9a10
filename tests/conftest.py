"""What all tests share: where the real data are, and one image preparation."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest

from pqbench.common.v1.common_pb2 import Images, Preprocessing
from pqbench_wire.blobs import BlobStore
from tests.postgres import Server, programs, running

ROOT = Path(__file__).parent.parent
LONGEST = ("test_techniques", "test_matrix", "test_cifar", "test_rtx_plans")  # files whose long tests take minutes


def pytest_configure(config: pytest.Config) -> None:
    """One thread for each worker of xdist and each process that it starts.

    On the same cores, PyTorch's threads of several processes wait for each other: a training took five times as long.
    """
    if hasattr(config, "workerinput"):
        os.environ["OMP_NUM_THREADS"] = "1"  # the environment of what the tests start
        os.environ["OMP_WAIT_POLICY"] = "passive"  # where a test's target has two threads, they do not spin
        import torch  # not in every environment that runs tests

        torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that no worker is left alone with them; nothing that measures beside the quickstart."""
    order = ("quickstart", "contract", *LONGEST, "e2e", "unit")

    def place(item: pytest.Item) -> int:
        parts = (*item.path.parts, item.path.stem)
        return next((n for n, part in enumerate(order) if part in parts), len(order))

    items.sort(key=place)
    for item in items:
        if "quickstart" in item.path.parts:  # the first of them makes the run, on a slow machine for over ten minutes
            item.add_marker(pytest.mark.timeout(1000))


@pytest.hookimpl(optionalhook=True)  # environments of single tests have no xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The tests of one file go to one worker, and those of the quickstart, so that each fixture is made once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = PurePath(nodeid.split("::")[0])
            return str(path.parent if path.parent.name == "quickstart" else path)

    return ByFile(config, log)


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


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[Server]:
    """A real PostgreSQL server."""
    found = programs()
    if found is None:
        pytest.skip("skipped: no PostgreSQL server is installed")
    with running(found) as server:
        yield server


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
