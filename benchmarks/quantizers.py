"""INT8 by tool: accuracy and latency of our quantizer, and of the others as they come, in one run.

    python benchmarks/quantizers.py DATA

The same models (CIFAR ResNets in DATA, with their published weights), the same 512 calibration images, the
same threads, in one run; each variant is timed interleaved with its FP32 baseline. Prints accuracy and
speed-up, and how ours stands to the best of the others; writes results/quantizers.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

SOME_FAILED = 1  # pqbench's exit code: a tool's model that a runtime cannot run is a result here
RESULT = Path(__file__).parent / "results" / "quantizers.json"
OURS = "int8-static"
TOOLS = ("int8-ort", "int8-nncf", "int8-modelopt", "int8-inc", "int8-torchao")
MODELS = ("resnet20", "resnet56")
COLUMNS = ("Model", "Recipe", "Target", "Batch Size", "Accuracy", "SQNR (dB)", "Inference Time (ms)", "Speedup",
           "Speedup Low", "Speedup High", "Outcome", "Reason")  # fmt: skip


def main(data: Path) -> None:
    """Run the comparison in a temporary folder."""
    with tempfile.TemporaryDirectory() as name:
        manifest = Path(name, "manifest.yaml")
        manifest.write_text(yaml.safe_dump(experiment(data.resolve())))
        command = [sys.executable, "-m", "pqbench_orchestrator.cli", "run", str(manifest), "--data", name, "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode not in (0, SOME_FAILED):
            sys.exit(done.returncode)
        cells = json.loads(done.stdout)["cells"]
        environment = json.loads((Path(json.loads(done.stdout)["run"]) / "environment.json").read_text())
    rows = [{column: cell.get(column) for column in COLUMNS} for cell in cells]
    report(rows, environment)


def report(rows: list[dict[str, Any]], environment: dict[str, Any]) -> None:
    """Print the comparison and keep it."""
    for row in rows:
        if row["Outcome"] != "ok":
            print(f"{row['Model']:9} {row['Target']:9} batch {row['Batch Size']:3} {row['Recipe']:14} {row['Reason']}")
            continue
        speedup = (
            f"{row['Speedup']:.2f} ({row['Speedup Low']:.2f} to {row['Speedup High']:.2f})" if row["Speedup"] else ""
        )
        print(f"{row['Model']:9} {row['Target']:9} batch {row['Batch Size']:3} {row['Recipe']:14} "
              f"{row['Accuracy']:6.2f} % {speedup}")  # fmt: skip
    standing = [compare(rows, model, target, batch) for model, target, batch in groups(rows)]
    for line in standing:
        print(line)
    RESULT.write_text(json.dumps(
        {"date": time.strftime("%Y-%m-%d"), "standing": standing, "rows": rows, "environment": environment}, indent=1
    ))  # fmt: skip


def experiment(data: Path) -> dict[str, Any]:
    """The manifest."""
    recipes = [{"name": "fp32"}, *({"name": m, "steps": [{"quantize": {"method": m}}]} for m in (OURS, *TOOLS))]
    files = {"test": "cifar10_test_lossless846.npz", "train": "cifar10_train_lossless4660.npz"}
    return {
        "name": "quantizers",
        "models": [{"model": f"cifar/{m}", "weights": str(data / f"cifar10_{m}.safetensors")} for m in MODELS],
        "datasets": [{"dataset": "cifar10", "config": {key: str(data / file) for key, file in files.items()}}],
        "recipes": recipes,
        "targets": [{"name": b, "backend": b, "options": {"threads": 2}} for b in ("onnxruntime", "openvino")],
        "batch_sizes": [1, 32],
        "measure": {"min_seconds": 2, "max_seconds": 4},
    }


def groups(rows: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
    """What is compared with each other."""
    return list(dict.fromkeys((row["Model"], row["Target"], row["Batch Size"]) for row in rows))


def compare(rows: list[dict[str, Any]], model: str, target: str, batch: int) -> dict[str, Any]:
    """Ours against the best other tool, in accuracy and in speed-up over FP32."""
    own = [
        r for r in rows if (r["Model"], r["Target"], r["Batch Size"]) == (model, target, batch) and r["Outcome"] == "ok"
    ]
    ours = next(row for row in own if row["Recipe"] == OURS)
    others = [row for row in own if row["Recipe"] in TOOLS]
    accurate, fast = (max(others, key=lambda row: row[key]) for key in ("Accuracy", "Speedup"))
    return {
        "model": model, "target": target, "batch": batch,
        "accuracy": ours["Accuracy"], "best_accuracy": accurate["Accuracy"], "most_accurate": accurate["Recipe"],
        "speedup": ours["Speedup"], "best_speedup": fast["Speedup"], "fastest": fast["Recipe"],
        "speed_ratio": ours["Speedup"] / fast["Speedup"],
    }  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
