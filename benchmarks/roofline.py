"""How near models come to what this CPU can do: multiply-accumulates a second, in FP32 and INT8, and memory.

    python benchmarks/roofline.py DATA

A model of wide convolutions shows the most multiply-accumulates a second that a runtime reaches in a precision, and
copies on as many threads show the memory's bandwidth. A model can take no less than its arithmetic takes at that rate,
and no less than reading and writing the values of its convolutions and products takes where they do not stay in a
cache. Prints what each model takes and how that stands to both; writes results/roofline.json. DATA: as for
quantizers.py.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compensation import INT8, TIMED, arrays, cifar, executed, experiment, lossless_images, mobilenet, split
from roofline_models import SIDE, products
from torch import nn

from pqbench_compressor.plugins import MODELS, Files

RESULT = Path(__file__).parent / "results" / "roofline.json"
THREADS = 2
BYTES = {"FP32": 4, "INT8": 1}  # of a value
RECIPES: list[tuple[str, list[Any]]] = [("int8", [INT8])]
MEASURE = {"measure": {"min_seconds": 2, "max_seconds": 4, "profile_seconds": 0}}
PEAK = "products"


def main(data: Path) -> None:
    """Measure the peaks and the models."""
    data = data.resolve()
    bandwidth = copied_bytes_per_second()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cells: list[dict[str, Any]] = []
        for manifest in manifests(data, folder):
            answer = executed(manifest | MEASURE, folder)
            cells += [cell for cell in answer["cells"] if cell["outcome"] == "ok"]
        environment = json.loads(Path(answer["run"], "environment.json").read_text())
        values = {model: values_of(model) for model in {cell["model"] for cell in cells}}
    peaks = {key(cell): rate(cell) for cell in cells if cell["model"] == PEAK}
    rows = [row(cell, peaks[key(cell)], values[cell["model"]], bandwidth) for cell in cells]
    print(f"copies on {THREADS} threads: {bandwidth / 1e9:.1f} GB/s")
    for one in rows:
        print(
            f"{one['model']:16} batch {one['batch_size']:2} {one['target']:16} {one['precision']:5} "
            f"{one['median_ms']:8.2f} ms {one['gmacs_per_second']:7.1f} GMAC/s, {one['of_peak']:4.0%} of the most; "
            f"at least {one['arithmetic_ms']:.2f} ms arithmetic, {one['memory_ms']:.2f} ms memory"
        )
    found = {
        "date": time.strftime("%Y-%m-%d"), "copied_bytes_per_second": bandwidth, "rows": rows,
        "environment": environment,
    }  # fmt: skip
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


def manifests(data: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """The peak's model, CIFAR's ResNet-56, MobileNet V2 and a ViT-Tiny."""
    images = np.random.default_rng(0).integers(0, 256, (512, SIDE, SIDE, 3), np.uint8)
    for part in ("train", "test"):
        np.savez(folder / f"{part}.npz", images=images, labels=np.arange(512) % 10)
    own = f"{Path(__file__).resolve().with_name('roofline_models.py')}:{PEAK}"
    sizes = {"height": SIDE, "width": SIDE, "mean": [0.5] * 3, "std": [0.5] * 3}
    peak = {"model": own, "name": PEAK, "weights": "none", "preprocessing": sizes}
    yield experiment(peak, arrays(folder), RECIPES) | TIMED | {"batch_sizes": [8]}
    yield experiment(cifar(data), lossless_images(data), RECIPES) | TIMED
    split(data / "imagenet_sample.zip", folder)
    yield experiment(mobilenet(data), arrays(folder), RECIPES) | TIMED | {"batch_sizes": [8]}
    vit = {"model": "timm/vit_tiny_patch16_224", "weights": "none"}
    yield experiment(vit, arrays(folder), RECIPES) | TIMED | {"batch_sizes": [8]}


def key(cell: dict[str, Any]) -> tuple[str, str]:
    return cell["target"], cell["precision"]


def rate(cell: dict[str, Any]) -> float:
    """Multiply-accumulates a second."""
    return float(cell["macs"] * cell["batch_size"] / cell["median_ms"] * 1e3)


def row(cell: dict[str, Any], peak: float, values: int, bandwidth: float) -> dict[str, Any]:
    """A cell against the peak of its precision and the bandwidth; `values`: of one image."""
    names = ("model", "batch_size", "target", "precision", "median_ms", "macs", "is_stable")
    moved = values * cell["batch_size"] * BYTES[cell["precision"]]
    return {name: cell[name] for name in names} | {
        "gmacs_per_second": rate(cell) / 1e9, "of_peak": rate(cell) / peak,
        "arithmetic_ms": 1e3 * cell["macs"] * cell["batch_size"] / peak, "memory_ms": 1e3 * moved / bandwidth,
    }  # fmt: skip


def values_of(model: str) -> int:
    """How many values the convolutions and products of a model read and write for one image, without weights."""
    module, side = architecture(model)
    counts: list[int] = []

    def note(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        counts.append(inputs[0].numel() + output.numel())

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(note)
    with torch.no_grad():
        module.eval()(torch.zeros(1, 3, side, side))
    return sum(counts)


def architecture(model: str) -> tuple[nn.Module, int]:
    """A model of `manifests` with any weights, and the side of its images."""
    if model == PEAK:
        return products(), SIDE
    family, name, side = {
        "resnet56": ("cifar", "resnet56", 32),
        "mobilenetv2": ("torchvision", "mobilenet_v2", 224),
        "vit_tiny_patch16_224": ("timm", "vit_tiny_patch16_224", 224),
    }[model]
    plugin = MODELS.load(family)
    return plugin.build(name, plugin.Config(), Files()), side


def copied_bytes_per_second(size: int = 256 << 20, times: int = 5) -> float:
    """Bytes read and written a second by plain copies on all threads: the best of some tries."""
    sources = [np.ones(size, np.uint8) for _ in range(THREADS)]
    targets = [np.zeros(size, np.uint8) for _ in range(THREADS)]
    spent = []
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(times):
            begin = time.perf_counter()
            list(pool.map(np.copyto, targets, sources))
            spent.append(time.perf_counter() - begin)
    return 2 * size * THREADS / min(spent)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
