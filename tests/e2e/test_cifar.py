"""Published CIFAR-10 checkpoints score what they are known to score, on every backend and in INT8."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Pqbench, newest_run, rows_of

KNOWN = 91.73  # percent of the 846 lossless test images, PyTorch FP32


@pytest.mark.long
@pytest.mark.more
def test_accuracy_on_all_backends(
    shared_data: Path, tmp_path: Path, pqbench: Pqbench, write_manifest: Callable[..., Path]
) -> None:
    manifest = write_manifest(
        tmp_path,
        models=[{"model": "cifar/resnet20", "weights": str(shared_data / "cifar10_resnet20.safetensors")}],
        datasets=[{"dataset": "cifar10", "config": {
            "test": str(shared_data / "cifar10_test_lossless846.npz"),
            "train": str(shared_data / "cifar10_train_lossless4660.npz")}}],
        recipes=[
            {"name": "baseline"},
            {"name": "int8", "steps": [{"quantize": "int8-static"}]},
            {"name": "l1-global 0.3", "steps": [{"prune": {"method": "l1-global", "amount": 0.3}}]},
        ],
        targets=[{"name": b, "backend": b, "options": {"threads": 2}} for b in ("onnxruntime", "openvino", "pytorch")],
        batch_sizes=[47],
    )  # fmt: skip
    done = pqbench("run", manifest, "--data", tmp_path / "data")
    assert done.code == 0, done.out + done.err
    rows = rows_of(newest_run(tmp_path / "data"))
    assert len(rows) == 9
    for row in rows:
        if row["Recipe"] == "int8" and row["Backend"] == "pytorch":
            assert row["Outcome"] == "refused"
            continue
        if row["Recipe"] == "baseline":
            assert float(row["Accuracy"]) == pytest.approx(KNOWN, abs=0.2), row
        elif row["Recipe"] == "int8":
            assert float(row["Accuracy"]) > KNOWN - 0.5, row
        else:
            assert float(row["Accuracy"]) > KNOWN - 1.0, row
        assert row["Scored Images"] == "846"
        assert float(row["Top-5 (%)"]) > 99
