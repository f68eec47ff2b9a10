"""One run of the whole quickstart, which the tests of this folder look at; one worker has them all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..conftest import ROOT, Pqbench


@pytest.fixture(scope="session")
def quickstart(pqbench: Pqbench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole quickstart, from nothing: its run's folder."""
    data = tmp_path_factory.mktemp("quickstart")
    done = pqbench("run", ROOT / "data/manifests/quickstart.yaml", "--data", data, "--json")
    assert done.code == 0, done.err
    return Path(json.loads(done.out)["run"])
