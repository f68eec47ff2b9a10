"""What recovery gives back: ResNet-56 with half its MACs removed, as pruned, recalibrated, fine-tuned, distilled.

    python benchmarks/recovery.py DATA

DATA holds cifar10_resnet56.safetensors, cifar10_test_lossless846.npz and cifar10_jpeg_train.zip. Trains
on the 50,000 JPEG images, scores the 846 lossless ones; prints accuracies and writes them to results/.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

RESULT = Path(__file__).parent / "results" / "recovery.json"
PRUNE = {"prune": {"method": "removal", "target": "macs", "amount": 0.5, "criterion": "taylor", "images": 512}}
RECALIBRATE = {"recalibrate": {"images": 2048}}


def main(data: Path) -> None:
    """Run the experiment in a temporary folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with zipfile.ZipFile(data / "cifar10_jpeg_train.zip") as archive:
            archive.extractall(folder)
        lossless(data / "cifar10_test_lossless846.npz", folder / "test")
        manifest = folder / "manifest.yaml"
        manifest.write_text(yaml.safe_dump(experiment(data.resolve())))
        command = [sys.executable, "-m", "pqbench_orchestrator.cli", "run", str(manifest), "--data", name, "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        cells = json.loads(done.stdout)["cells"]
        environment = json.loads((Path(json.loads(done.stdout)["run"]) / "environment.json").read_text())
    columns = (
        "recipe", "accuracy_top1_percent", "macs", "parameters", "preparation_s", "median_ms",
        "speedup",
    )  # fmt: skip
    rows = [{column: cell.get(column) for column in columns} for cell in cells]
    for row in rows:
        print(
            f"{row['recipe']:32} {row['accuracy_top1_percent']:6.2f} %  {row['macs'] / rows[0]['macs']:.2f} of the MACs"
        )
    RESULT.write_text(
        json.dumps({"date": time.strftime("%Y-%m-%d"), "rows": rows, "environment": environment}, indent=1)
    )


def lossless(arrays: Path, folder: Path) -> None:
    """The images of an .npz as PNG files, one sub-folder a class."""
    with np.load(arrays) as given:
        images, labels, classes = given["images"], given["labels"], given["classes"]
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / str(classes[label]) / f"{index:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def experiment(data: Path) -> dict[str, Any]:
    """The manifest."""
    return {
        "name": "recovery",
        "models": [{"model": "cifar/resnet56", "weights": str(data / "cifar10_resnet56.safetensors")}],
        "datasets": [{"dataset": "folder", "config": {"test": "test", "train": "train"}}],
        "recipes": [
            {"name": "unpruned"},
            {"name": "as pruned", "steps": [PRUNE]},
            {"name": "recalibrated", "steps": [PRUNE, RECALIBRATE]},
            {"name": "fine-tuned, 1 epoch", "steps": [PRUNE, RECALIBRATE, finetune(1)]},
            {"name": "fine-tuned, 2 epochs", "steps": [PRUNE, RECALIBRATE, finetune(2)]},
            {"name": "distilled, 1 epoch", "steps": [PRUNE, RECALIBRATE, finetune(1, distill=True)]},
            {"name": "distilled, 2 epochs", "steps": [PRUNE, RECALIBRATE, finetune(2, distill=True)]},
        ],
        "targets": [{"name": "onnxruntime-cpu", "backend": "onnxruntime", "options": {"threads": 2}}],
        "batch_sizes": [32],
        "measure": {"min_seconds": 1, "max_seconds": 3},
    }


def finetune(epochs: int, distill: bool = False) -> dict[str, Any]:
    """A fine-tuning step with the settings that all rows share."""
    options = {"learning_rate": 0.02, "batch_size": 128, "precision": "bf16", "augment": "crop-flip"}
    return {"finetune": {"epochs": epochs, "distill": distill} | options}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
