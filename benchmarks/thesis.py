"""The thesis' study on this machine, from the manifests in data/manifests/thesis: what docs/thesis.md shows.

    python benchmarks/thesis.py DATA [accuracy|combined|speed …]

DATA holds cifar10_resnet56.safetensors, cifar10_train_lossless4660.npz, cifar10_test_lossless846.npz, mobilenet_v2.py,
mobilenet_v2.safetensors and imagenet_sample.zip. Models, datasets, targets and batch sizes are replaced by those that
can be had here without a download and without a GPU: accuracy is of ResNet-56 and MobileNet V2, speed of the ten models
with random weights (MobileNet V2 with its own). Writes results/thesis.json and docs/images/thesis/*.svg, part by part.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from compensation import arrays, mobilenet, split

ROOT = Path(__file__).parent.parent
MANIFESTS, PICTURES = ROOT / "data/manifests/thesis", ROOT / "docs/images/thesis"
RESULT = Path(__file__).parent / "results" / "thesis.json"
DEGREES = [0.1, 0.2, 0.3, 0.5, 0.7, 0.9]
ON_CPU = [{"name": f"{name}-cpu", "backend": name, "options": {"threads": 2}} for name in ("onnxruntime", "openvino")]
KEPT = (
    "model", "recipe", "target", "batch_size", "outcome", "reason", "accuracy_top1_percent", "accuracy_change_points",
    "median_ms", "speedup", "speedup_low", "speedup_high", "engine_size_bytes", "engine_executed_precision",
    "is_stable", "parameters", "original_mb", "sparsity_percent",
)  # fmt: skip
DRAWN: dict[str, tuple[str, ...]] = {"accuracy": ("amount",), "combined": ("amount",), "speed": ()}  # figures kept
PARTS = {"accuracy": "figures-05-12-accuracy", "combined": "figure-21-combined", "speed": "figures-13-17-speed"}


def main(data: Path, parts: list[str]) -> None:
    """Run the parts and keep what they gave."""
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        split(data / "imagenet_sample.zip", folder)
        for part in parts or PARTS:
            rows, environment = [], {}
            for label, changes in changes_of(part, data.resolve(), folder).items():
                cells, environment = run(part, label, changes, folder)
                rows += [{key: cell.get(key) for key in KEPT} for cell in cells]
            found[part] = {"date": time.strftime("%Y-%m-%d"), "rows": rows, "environment": environment}
            RESULT.write_text(json.dumps(found, indent=1) + "\n")


def changes_of(part: str, data: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """What a part's manifest is run with here, by the name of the pictures."""
    images = [{"dataset": "arrays", "name": "imagenet_sample", "config": arrays(folder)}]
    if part == "speed":
        names = [one["model"] for one in manifest(part)["models"]]
        models = [mobilenet(data) if one == "mobilenetv2" else {"model": one, "weights": "none"} for one in names]
        measure = {"warmup_seconds": 0.2, "min_seconds": 0.5, "max_seconds": 1, "profile_seconds": 0}
        more = {"batch_sizes": [1, 8], "repeats": 1, "try_artifacts": False, "measure": measure, "targets": ON_CPU}
        return {"speed": {"models": models, "datasets": [images[0] | {"test_images": 16, "train_images": 64}]} | more}
    cifar = {
        part: str(data / f"cifar10_{part}_lossless{count}.npz") for part, count in (("train", 4660), ("test", 846))
    }
    resnet = {"model": "cifar/resnet56", "weights": str(data / "cifar10_resnet56.safetensors")}
    more = {"targets": ON_CPU[:1], "batch_sizes": [32], "recipes": with_degrees(manifest(part)["recipes"])}
    return {
        f"{part}-resnet56": {"models": [resnet], "datasets": [{"dataset": "arrays", "config": cifar}]} | more,
        f"{part}-mobilenetv2": {"models": [mobilenet(data)], "datasets": images} | more,
    }


def manifest(part: str) -> dict[str, Any]:
    """A part's manifest, as users run it."""
    found: dict[str, Any] = yaml.safe_load((MANIFESTS / f"{PARTS[part]}.yaml").read_text())
    return found


def with_degrees(recipes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The recipes with fewer degrees of pruning."""
    for step in (step for recipe in recipes for step in recipe.get("steps", ()) if "prune" in step):
        step["prune"]["amount"] = DEGREES
    return recipes


def run(part: str, label: str, changes: dict[str, Any], folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run a part's manifest with changes; returns its cells and environment, and keeps its figures as pictures."""
    file = folder / f"{label}.yaml"
    file.write_text(yaml.safe_dump(manifest(part) | changes, sort_keys=False))
    command = [sys.executable, "-m", "pqbench_orchestrator.cli"]
    options = ["--data", str(folder / "data"), "--json", "--allow-code"]
    done = subprocess.run([*command, "run", str(file), *options], stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, 1):  # 1: some cell failed, and its row says so
        sys.exit(f"{label}: pqbench run ended with {done.returncode}")
    answer = json.loads(done.stdout)
    pictures = folder / "pictures" / label
    subprocess.run(
        [*command, "report", answer["run"], "--figures", str(pictures)], check=True, stdout=subprocess.DEVNULL
    )
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name in DRAWN[part]:
        shutil.copy(pictures / f"{name}.svg", PICTURES / f"{label}-{name}.svg")
    return answer["cells"], json.loads(Path(answer["run"], "environment.json").read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
