"""Plans that TensorRT for RTX builds of the thesis' ten models and four later ones in every form: MB, or why not.

    python benchmarks/rtx_plans.py [MODEL …]

Runs `pqbench build` with four versions side by side, for compute capability 8.9 and batch size 8, model by model, and
writes results/rtx_plans.json and docs/rtx-plans.md after each; goes on where it was interrupted. Weights and images are
random, drawn with a seed: they do not change what a builder takes. No GPU is needed; pip installs the versions.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ROOT = Path(__file__).parent.parent
RESULT, PAGE = ROOT / "benchmarks/results/rtx_plans.json", ROOT / "docs/rtx-plans.md"
MODELS = (
    "thesis/alexnet", "thesis/densenet", "thesis/googlenet", "thesis/resnet", "thesis/inceptionv3",
    "thesis/mobilenetv2", "thesis/shufflenetv2", "thesis/simplenet", "thesis/squeezenet", "thesis/visiontransformer",
    "torchvision/mobilenet_v3_small", "torchvision/efficientnet_b0", "torchvision/convnext_tiny", "torchvision/swin_t",
)  # fmt: skip
NORMALISED = ("thesis/mobilenetv2", "torchvision/mobilenet_v3_small", "torchvision/efficientnet_b0")
METHODS: dict[str, dict[str, Any]] = {
    "FP32": {}, "FP16": {"method": "fp16"}, "BF16": {"method": "bf16"},
    "INT8": {"method": "int8-static", "images": 16}, "FP8": {"method": "fp8-static", "images": 16},
    "INT4 weights": {"method": "int4-weights"},
}  # fmt: skip
CAPABILITY, BATCH = "8.9", 8
VERSIONS = ("1.7.1.116", "1.6.1.120", "1.5.0.114", "1.4.0.76")


def install(version: str, folder: Path) -> None:
    """Install a version of NVIDIA's libraries in a folder of its own."""
    packages = [f"tensorrt-rtx-cu12-{part}=={version}" for part in ("libs", "bindings")]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*pip, "--target", str(folder), *packages], check=True)


def installed(version: str, folder: Path) -> Path:
    """A Python interpreter that sees this version of NVIDIA's libraries, which are installed in `folder`."""
    install(version, folder / version)
    wrapper = folder / f"python-{version}"
    wrapper.write_text(f'#!/bin/sh\nexec env PYTHONPATH={folder / version} {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    return wrapper


def built(model: str, pythons: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Recipe -> version -> megabytes of the plan and seconds of the build, or the reason why there is none.

    `pythons`: an interpreter for each version.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, rng = Path(name), np.random.default_rng(0)
        for split, count in (("train", 32), ("test", 8)):
            images = rng.integers(0, 256, (count, 256, 256, 3), dtype=np.uint8)
            np.savez(folder / f"{split}.npz", images=images, labels=rng.integers(0, 10, count))
        file, inventory = folder / "m.yaml", folder / "inventory.yaml"
        file.write_text(yaml.safe_dump(manifest(model, tuple(pythons))))
        places = {version: {"process": {"python": str(python)}} for version, python in pythons.items()}
        inventory.write_text(yaml.safe_dump({"targets": places}))
        command = [sys.executable, "-m", "pqbench_orchestrator.cli", "build", file, "--data", folder / "data", "--json"]
        command += ["--inventory", inventory]
        done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True)
        if done.returncode not in (0, 1):
            sys.exit(f"{model}: pqbench build ended with {done.returncode}")
        with Path(json.loads(done.stdout)["run"], "results.csv").open() as table:
            rows = list(csv.DictReader(table))
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        has_plan = row["Outcome"] == "unavailable" and row["Engine (bytes)"]
        found.setdefault(row["Recipe"], {})[row["Target"]] = (
            {"mb": float(row["Engine (bytes)"]) / 1e6, "seconds": float(row["Build Time (s)"])}
            if has_plan
            else {"why": f"{row['Outcome']}: {row['Reason']}"}
        )
    return found


def manifest(model: str, versions: tuple[str, ...]) -> dict[str, Any]:
    # Without it, random weights of a deep network with batch norms give values that no INT8 can hold.
    first = [{"recalibrate": {"images": 32}}] if model in NORMALISED else []
    recipes = [
        {"name": name, **({"steps": [*first, {"quantize": step}]} if step else {})} for name, step in METHODS.items()
    ]
    options = {"compute_capabilities": [CAPABILITY]}
    return {
        "name": "plans", "models": [{"model": model, "weights": "none"}], "recipes": recipes, "batch_sizes": [BATCH],
        "datasets": [{"dataset": "arrays", "config": {"train": "train.npz", "test": "test.npz"}}],
        "targets": [{"name": name, "backend": "tensorrt-rtx", "options": options} for name in versions],
        "stall_seconds": 3600, "verification_images": 4,
    }  # fmt: skip


def page(found: dict[str, Any]) -> str:
    """The tables in Markdown, one for each version."""
    lines = [
        "# What TensorRT for RTX builds, and how large",
        "",
        f"Plan sizes in MB for compute capability {CAPABILITY} and batch size {BATCH}, {found['date']}, built by "
        "`benchmarks/rtx_plans.py` on a machine without a GPU. Weights are random. A number in brackets is a reason "
        "from the list at the end.",
    ]
    reasons: list[str] = []
    for version in VERSIONS:
        lines += ["", f"## TensorRT for RTX {version}", "", f"| model | {' | '.join(METHODS)} |"]
        lines += [f"| --- |{' --- |' * len(METHODS)}"]
        for model, cells in found["models"].items():
            lines += [f"| {model} | {' | '.join(shown(cells[name][version], reasons) for name in METHODS)} |"]
    return "\n".join([*lines, "", *(f"{number}. {why}" for number, why in enumerate(reasons, 1))]).rstrip() + "\n"


def shown(cell: dict[str, Any], reasons: list[str]) -> str:
    """A cell of the table; a reason's number, for which it is added to `reasons`."""
    if "mb" in cell:
        return f"{cell['mb']:.1f}"
    if cell["why"] not in reasons:
        reasons.append(cell["why"])
    return f"({reasons.index(cell['why']) + 1})"


def main() -> None:
    """Build the models that are asked for, or those that have no results yet."""
    found: dict[str, Any] = {"versions": list(VERSIONS), "date": time.strftime("%Y-%m-%d"), "models": {}}
    if RESULT.exists() and (earlier := json.loads(RESULT.read_text())).get("versions") == list(VERSIONS):
        found = earlier
    with tempfile.TemporaryDirectory() as name:
        pythons = {version: installed(version, Path(name)) for version in VERSIONS}
        for model in sys.argv[1:] or [name for name in MODELS if name not in found["models"]]:
            print(f"{model} …", file=sys.stderr, flush=True)
            found["models"][model] = built(model, pythons)
            found["models"] = {name: found["models"][name] for name in MODELS if name in found["models"]}
            RESULT.write_text(json.dumps(found, indent=1) + "\n")
            PAGE.write_text(page(found))
    print(page(found))


if __name__ == "__main__":
    main()
