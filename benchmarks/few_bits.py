"""Formats of few bits: INT4 weights of a ViT-Tiny, FP8 and INT8 of MobileNet V2, learned rounding of ResNet-20.

Also what cross-layer equalization adds to INT8 of MobileNet V2.

    python benchmarks/few_bits.py DATA [int4|fp8|adaround|equalization …]

DATA holds imagenet_sample.zip, mobilenet_v2.py and mobilenet_v2.safetensors: half of the images to calibrate with, half
to score. The ViT's weights are random, so of it only the signal-to-noise ratio counts. For ResNet-20 it holds
cifar10_resnet20.safetensors, cifar10_train_lossless4660.npz and cifar10_test_lossless846.npz. Writes
results/few_bits.json.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from compensation import FIGURES, arrays, experiment, mobilenet, run, split

RESULT = Path(__file__).parent / "results" / "few_bits.json"
PARTS = ("int4", "fp8", "adaround", "equalization")


def main(data: Path, parts: list[str]) -> None:
    """Run the parts and keep what they gave."""
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for part in parts or PARTS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            cells, environment = run(manifest(part, data.resolve(), folder), folder)
        rows = [{key: cell.get(key) for key in FIGURES} for cell in cells]
        for row in rows[1:]:
            percent, decibels = row["accuracy_top1_percent"], row["metric_sqnr_db"]
            print(f"{row['recipe']:24} {percent:6.2f} % {decibels:6.2f} dB  {row['preparation_s']:6.1f} s")
        found[part] = {"date": time.strftime("%Y-%m-%d"), "rows": rows, "environment": environment}
        RESULT.write_text(json.dumps(found, indent=1) + "\n")


def manifest(part: str, data: Path, folder: Path) -> dict[str, Any]:
    if part == "adaround":
        return resnet20(data)
    split(data / "imagenet_sample.zip", folder)
    if part == "fp8":
        recipes = [(name, [{"quantize": {"method": name, "images": 128}}]) for name in ("fp8-static", "int8-static")]
        return experiment(mobilenet(data), arrays(folder), recipes)
    if part == "equalization":
        int8 = {"method": "int8-static", "images": 128}
        recipes = [(name, [{"quantize": int8 | {"equalization": name}}]) for name in ("none", "cross-layer", "auto")]
        return experiment(mobilenet(data), arrays(folder), recipes)
    steps = [
        {"method": "int4-weights", "block": block, "rounding": rounding}
        for block in (64, 128)
        for rounding in ("nearest", "gptq")
    ]
    recipes = [(f"{step['rounding']}, blocks of {step['block']}", [{"quantize": step}]) for step in steps]
    return experiment({"model": "timm/vit_tiny_patch16_224", "weights": "none"}, arrays(folder), recipes)


def resnet20(data: Path) -> dict[str, Any]:
    """Weights of few bits, rounded to the nearest value and by learning; activations stay FP32.

    With a scale for each output channel, and with one for a whole layer, as some accelerators take them.
    """
    recipes = [
        (f"{bits} bits, {scales}, {rounding}", [{"quantize": {
            "method": "simulated", "weights": bits, "activations": 32, "rounding": rounding, "scales": scales,
            "images": 1024,
        }}])
        for bits, scales in ((4, "channel"), (3, "channel"), (8, "tensor"), (6, "tensor"), (5, "tensor"))
        for rounding in ("nearest", "adaround")
    ]  # fmt: skip
    images = {
        part: str(data / f"cifar10_{part}_lossless{count}.npz") for part, count in (("train", 4660), ("test", 846))
    }
    return experiment(
        {"model": "cifar/resnet20", "weights": str(data / "cifar10_resnet20.safetensors")}, images, recipes
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
