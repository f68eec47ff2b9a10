"""What no run needs is removed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from pqbench_orchestrator.commands.clean import clean
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import InvalidInput

from ..damage import a_run


def test_what_no_run_needs_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where no service of this user holds a lock
    store = BlobStore(tmp_path / "blobs")
    needed, left = store.put(b"needed"), store.put(b"left over")
    a_run(tmp_path / "experiments/run", {"blob": {"sha256": needed.sha256, "size": "6"}})
    (tmp_path / "results/build").mkdir(parents=True)
    (tmp_path / "results/build/k").write_bytes(b"kept")
    found = clean(tmp_path, remove=False)
    assert (found.files, found.kept) == (2, 6) and store.has(left)
    clean(tmp_path, remove=True)
    assert store.has(needed) and not store.has(left) and not (tmp_path / "results/build/k").exists()
    with pytest.raises(InvalidInput, match="not a data folder"):
        clean(tmp_path / "experiments", remove=True)
