"""What `compensate` gives back after removal, without labels or training, and what an epoch adds to it.

    python benchmarks/compensation.py DATA [EXPERIMENT …]

EXPERIMENT is one of resnet56, resnet56_int8, resnet56_epoch, resnet56_depth, resnet56_depth_epoch, mobilenet_v2,
mobilenet_v2_int8, mobilenet_v2_depth, vit_tiny; all by default.
DATA holds cifar10_resnet56.safetensors, cifar10_train_lossless4660.npz, cifar10_test_lossless846.npz,
cifar10_jpeg_train.zip, mobilenet_v2.py, mobilenet_v2.safetensors and imagenet_sample.zip. Prints accuracies on images
that no step saw (of the ViT, whose weights are random, the outputs' signal-to-noise ratio) and the seconds of the
compressor; writes results/compensation.json, a model at a time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from recovery import finetune, lossless

RESULT = Path(__file__).parent / "results" / "compensation.json"
FIGURES = (
    "recipe",
    "target",
    "outcome",
    "reason",
    "accuracy_top1_percent",
    "metric_sqnr_db",
    "macs",
    "preparation_s",
    "median_ms",
    "speedup",
    "speedup_low",
    "speedup_high",
    "is_stable",
)
SIDE = 224  # pixels, of MobileNet V2
RESIDUAL_BLOCKS = 10  # of MobileNet V2
MOST_IMAGES = 448  # of the 500 to fit to; a tenth is held out
GLOBALLY = {"criterion": "reconstruction", "scope": "global", "images": MOST_IMAGES}
PQBENCH = (sys.executable, "-m", "pqbench_orchestrator.cli")
RANKINGS: dict[str, dict[str, Any]] = {
    "taylor": {"criterion": "taylor"},
    "reconstruction": {"criterion": "reconstruction"},
    "reconstruction, global": {"criterion": "reconstruction", "scope": "global"},
    "reconstruction, global, multiples of 4": {"criterion": "reconstruction", "scope": "global", "round_to": 4},
}
AS_PRUNED: dict[str, list[Any]] = {"as pruned": [], "recalibrated": [{"recalibrate": {"images": 512}}]}
FEW, MANY = ({f"compensated, {count} images": [{"compensate": {"images": count}}]} for count in (512, 4190))
INT8 = {"quantize": {"method": "int8-static"}}
TIMED: dict[str, Any] = {
    "targets": [
        {"name": f"{backend}-cpu", "backend": backend, "options": {"threads": 2}}
        for backend in ("onnxruntime", "openvino")
    ],
    "measure": {"min_seconds": 2, "max_seconds": 4, "profile_seconds": 0},
}
REPAIRS: dict[str, dict[str, list[Any]]] = {
    "taylor": AS_PRUNED | FEW | MANY,
    "reconstruction": FEW,
    "reconstruction, global": AS_PRUNED | FEW | MANY,
    "reconstruction, global, multiples of 4": FEW,
}


def main(data: Path, models: list[str]) -> None:
    """Run the models' experiments and keep what they gave."""
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for model in models or EXPERIMENTS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            cells, environment = run(EXPERIMENTS[model](data.resolve(), folder), folder)
        rows = [{name: cell.get(name) for name in FIGURES} for cell in cells]
        for row in rows:
            head = f"{model:14} {row['recipe']:28} {row['target']:16}"
            figures = ("accuracy_top1_percent", "metric_sqnr_db", "preparation_s", "speedup")
            percent, decibels, seconds, speedup = (row[figure] or 0 for figure in figures)
            print(f"{head} {percent:6.2f} % {decibels:6.2f} dB {seconds:6.1f} s {speedup:5.2f} x  {row['reason']}")
        found[model] = {"date": time.strftime("%Y-%m-%d"), "rows": rows, "environment": environment}
        RESULT.write_text(json.dumps(found, indent=1) + "\n")


def run(manifest: dict[str, Any], folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run an experiment in a folder; returns its cells and its environment."""
    answer = executed(manifest, folder)
    return answer["cells"], json.loads(Path(answer["run"], "environment.json").read_text())


def executed(manifest: dict[str, Any], folder: Path) -> Any:
    """What `pqbench run --json` says of an experiment in a folder."""
    file = folder / "manifest.yaml"
    file.write_text(yaml.safe_dump(manifest, sort_keys=False))
    command = [*PQBENCH, "run", str(file), "--data", str(folder), "--json", "--allow-code"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def resnet56(data: Path, folder: Path) -> dict[str, Any]:
    """Half of the MACs removed inside the blocks, by four rankings; fitted to 512 and to 4,190 images."""
    return experiment(
        cifar(data), lossless_images(data),
        [(f"{ranking}: {name}", [removal(0.5, images=512, **RANKINGS[ranking]), *steps])
         for ranking, repairs in REPAIRS.items() for name, steps in repairs.items()],
    )  # fmt: skip


def resnet56_int8(data: Path, folder: Path) -> dict[str, Any]:
    """Removal, compensation and INT8 against INT8 alone, on two runtimes."""
    shares, int8, fit = (0.2, 0.3, 0.4, 0.5), INT8, {"compensate": {"images": 512}}
    ranking = RANKINGS["reconstruction, global"]
    found = experiment(
        cifar(data), lossless_images(data),
        [("int8", [int8]),
         *((f"{share:.0%} removed, compensated, int8", [removal(share, images=512, **ranking), fit, int8])
           for share in shares)],
    )  # fmt: skip
    return found | TIMED


def resnet56_epoch(data: Path, folder: Path) -> dict[str, Any]:
    """The same, with an epoch of distillation over the 50,000 JPEG images after it, and INT8 in the end."""
    epoch, fit = finetune(1, distill=True), {"compensate": {"images": 4190}}
    prune = removal(0.5, images=512, **RANKINGS["reconstruction, global"])
    recipes = [
        ("int8", [INT8]),
        ("compensated, an epoch", [prune, fit, epoch]),
        ("compensated, an epoch, int8", [prune, fit, epoch, INT8]),
    ]
    return experiment(cifar(data), {}, recipes) | TIMED | {"datasets": [jpeg(data, folder)]}


def resnet56_depth(data: Path, folder: Path) -> dict[str, Any]:
    """Blocks removed, compensated and quantized, against INT8 alone, on two runtimes; with narrower layers too."""
    fit = {"compensate": {"images": 512}}
    ways: dict[str, list[Any]] = {
        f"{share:.0%} of the blocks": [depth(share, images=512)] for share in (0.2, 0.3, 0.35, 0.4)
    }
    for share in (0.1, 0.2):
        narrower = removal(share, images=512, **RANKINGS["reconstruction, global"])
        ways[f"30% of the blocks, {share:.0%} of the rest"] = [depth(0.3, images=512), narrower]
    recipes = [("int8", [INT8])]
    for name, steps in ways.items():
        recipes += [(f"{name}, compensated", [*steps, fit]), (f"{name}, compensated, int8", [*steps, fit, INT8])]
    return experiment(cifar(data), lossless_images(data), recipes) | TIMED


def resnet56_depth_epoch(data: Path, folder: Path) -> dict[str, Any]:
    """The same, with an epoch of distillation after it, and INT8 in the end."""
    fit, epoch = {"compensate": {"images": 4190}}, finetune(1, distill=True)
    recipes = [("int8", [INT8])]
    for share in (0.3, 0.4, 0.5):
        steps = [depth(share, images=512), fit, epoch]
        name = f"{share:.0%} of the blocks, compensated, an epoch"
        recipes += [(name, steps), (f"{name}, int8", [*steps, INT8])]
    return experiment(cifar(data), {}, recipes) | TIMED | {"datasets": [jpeg(data, folder)]}


def jpeg(data: Path, folder: Path) -> dict[str, Any]:
    """The 50,000 training images as JPEG, and the lossless ones to score on."""
    with zipfile.ZipFile(data / "cifar10_jpeg_train.zip") as archive:
        archive.extractall(folder)
    lossless(data / "cifar10_test_lossless846.npz", folder / "test")
    return {"dataset": "folder", "config": {"train": "train", "test": "test"}}


def cifar(data: Path) -> dict[str, str]:
    """ResNet-56, as a manifest names it."""
    return {"model": "cifar/resnet56", "weights": str(data / "cifar10_resnet56.safetensors")}


def lossless_images(data: Path) -> dict[str, str]:
    """CIFAR-10 images that were never JPEG."""
    return {part: str(data / f"cifar10_{part}_lossless{count}.npz") for part, count in (("train", 4660), ("test", 846))}


def mobilenet_v2(data: Path, folder: Path) -> dict[str, Any]:
    """20 % and 30 % of the MACs removed; half of the 1,000 images to fit to, half to score."""
    split(data / "imagenet_sample.zip", folder)
    return experiment(mobilenet(data), arrays(folder), repaired())


def mobilenet_v2_int8(data: Path, folder: Path) -> dict[str, Any]:
    """Shares of a runtime's INT8 latency removed, compensated and quantized, against INT8 alone, on both runtimes.

    The layers' times come from a run of its own.
    """
    split(data / "imagenet_sample.zip", folder)
    plain = experiment(mobilenet(data), arrays(folder), [("int8", [INT8])]) | TIMED | {"batch_sizes": [8]}
    measure = {"min_seconds": 1, "max_seconds": 2}
    whole = executed(plain | {"measure": measure | {"profile_seconds": 2}}, folder)["run"]
    fit = {"compensate": {"images": MOST_IMAGES}}
    recipes = []
    for backend, multiples in (("openvino", 8), ("onnxruntime", 16)):
        times = latencies(whole, f"int8@{backend}-cpu")
        for share in (0.1, 0.2, 0.3):
            prune = removal(share, target="latency", latencies=times, round_to=multiples, **GLOBALLY)
            recipes.append((f"{share:.0%} of {backend}, compensated, int8", [prune, fit, INT8]))
    return plain | {"recipes": [*plain["recipes"], *({"name": name, "steps": steps} for name, steps in recipes)]}


def mobilenet_v2_depth(data: Path, folder: Path) -> dict[str, Any]:
    """Blocks removed, compensated and quantized, against INT8 alone, on both runtimes."""
    split(data / "imagenet_sample.zip", folder)
    fit = {"compensate": {"images": MOST_IMAGES}}
    recipes = [("int8", [INT8])]
    for count in (1, 2, 3, 4):
        steps = [depth(count / RESIDUAL_BLOCKS, images=MOST_IMAGES), fit]
        name = f"{count} blocks, compensated"
        recipes += [(name, steps), (f"{name}, int8", [*steps, INT8])]
    return experiment(mobilenet(data), arrays(folder), recipes) | TIMED | {"batch_sizes": [8]}


def latencies(run: str, cell: str) -> dict[str, float]:
    """The time of each layer of a cell in microseconds."""
    done = subprocess.run([*PQBENCH, "why", run, cell, "--latencies", "--json"], stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)["latencies"]
    return found


def mobilenet(data: Path) -> dict[str, Any]:
    """MobileNet V2 with real weights, as a manifest names it."""
    return {
        "model": f"{data / 'mobilenet_v2.py'}:mobilenet_v2", "weights": str(data / "mobilenet_v2.safetensors"),
        "name": "mobilenetv2", "preprocessing": {"height": SIDE, "width": SIDE, "mean": [0.5] * 3, "std": [0.5] * 3},
    }  # fmt: skip


def vit_tiny(data: Path, folder: Path) -> dict[str, Any]:
    """The same shares of a ViT-Tiny with random weights."""
    split(data / "imagenet_sample.zip", folder)
    return experiment({"model": "timm/vit_tiny_patch16_224", "weights": "none"}, arrays(folder), repaired())


def arrays(folder: Path) -> dict[str, str]:
    return {part: str(folder / f"{part}.npz") for part in ("train", "test")}


def repaired() -> list[tuple[str, list[Any]]]:
    """Removal over the whole network, compensated or not, with an epoch over the few images or not."""
    epoch = {"finetune": {"epochs": 1, "distill": True, "learning_rate": 0.001, "batch_size": 16}}
    return [
        (f"{share:.0%} {name}{', an epoch' if more else ''}", [removal(share, **GLOBALLY), *fit, *more])
        for share in (0.2, 0.3)
        for name, fit in (("as pruned", []), ("compensated", [{"compensate": {"images": MOST_IMAGES}}]))
        for more in ([], [epoch])
    ]


def removal(share: float, **more: Any) -> dict[str, Any]:
    return {"prune": {"method": "removal", "target": "macs", "amount": share} | more}


def depth(share: float, **more: Any) -> dict[str, Any]:
    return {"prune": {"method": "depth", "amount": share} | more}


def experiment(model: dict[str, Any], arrays: dict[str, str], recipes: list[tuple[str, list[Any]]]) -> dict[str, Any]:
    """The manifest."""
    return {
        "name": "compensation", "models": [model], "datasets": [{"dataset": "arrays", "config": arrays}],
        "recipes": [{"name": "unpruned"}, *({"name": name, "steps": steps} for name, steps in recipes)],
        "targets": [{"name": "onnxruntime-cpu", "backend": "onnxruntime", "options": {"threads": 2}}],
        "batch_sizes": [32], "measure": {"min_seconds": 0.5, "max_seconds": 1, "profile_seconds": 0},
    }  # fmt: skip


def split(archive: Path, folder: Path) -> None:
    """Every second image for the fit, the others for scoring: shorter side 256, the middle 224 pixels."""
    with zipfile.ZipFile(archive) as given:
        files = json.loads(given.read(next(n for n in given.namelist() if n.endswith("labels.json"))))["files"]
        root = next(n for n in given.namelist() if n.endswith("labels.json")).removesuffix("labels.json")
        names = sorted(files)
        images, labels = np.stack([cropped(given, root, name) for name in names]), np.array([files[n] for n in names])
    for part, chosen in (("train", slice(0, None, 2)), ("test", slice(1, None, 2))):
        np.savez(folder / f"{part}.npz", images=images[chosen], labels=labels[chosen])


def cropped(archive: zipfile.ZipFile, root: str, name: str) -> np.ndarray:
    """One image as uint8 [224, 224, 3]."""
    path = next(one for one in (name, root + name) if one in archive.namelist())
    with archive.open(path) as file:
        image = Image.open(file).convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
    return np.asarray(image.crop((left, top, left + SIDE, top + SIDE)))


EXPERIMENTS: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    one.__name__: one for one in (
        resnet56, resnet56_int8, resnet56_epoch, resnet56_depth, resnet56_depth_epoch,
        mobilenet_v2, mobilenet_v2_int8, mobilenet_v2_depth, vit_tiny,
    )
}  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
