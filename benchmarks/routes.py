"""Every precision on every runtime that runs here: accepted or not, executed in what, how fast against true FP32.

    python benchmarks/routes.py DATA

CIFAR's ResNet-56 with its published weights, batch sizes 1 and 32. Prints the table of docs/precisions.md and
writes results/routes.json.
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
RESULT = Path(__file__).parent / "results" / "routes.json"
METHODS = ("fp16", "bf16", "int8-static", "int8-dynamic", "fp8-static", "int4-weights", "simulated")
COLUMNS = ("Recipe", "Target", "Batch Size", "Outcome", "Reason", "Precision", "Form", "Executed Precision", "Accuracy",
           "Speedup", "Speedup Low", "Speedup High")  # fmt: skip


def main(data: Path) -> None:
    """Run the experiment in a temporary folder."""
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
    print("| precision | runtime | form | executed in | accuracy % | speed-up, batch 1 | speed-up, batch 32 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for small, large in zip(rows[::2], rows[1::2], strict=True):
        print(line(small, large))
    RESULT.write_text(
        json.dumps({"date": time.strftime("%Y-%m-%d"), "rows": rows, "environment": environment}, indent=1)
    )


def line(small: dict[str, Any], large: dict[str, Any]) -> str:
    """A row of the table, from the cells of batch 1 and of batch 32."""
    head = f"| {small['Precision']} | {small['Target']} | "
    if small["Outcome"] != "ok":
        return head + f"{small['Outcome']}: {small['Reason']} | | | | |"
    return head + (
        f"{small['Form']} | {small['Executed Precision']} | {small['Accuracy']:.2f} | {speed(small)} | {speed(large)} |"
    )


def speed(row: dict[str, Any]) -> str:
    """Speed-up with its interval; a dash for what is never timed, or is the baseline."""
    return f"{row['Speedup']:.2f} ({row['Speedup Low']:.2f} to {row['Speedup High']:.2f})" if row["Speedup"] else "–"


def experiment(data: Path) -> dict[str, Any]:
    """The manifest."""
    files = {"test": "cifar10_test_lossless846.npz", "train": "cifar10_train_lossless4660.npz"}
    return {
        "name": "routes",
        "models": [{"model": "cifar/resnet56", "weights": str(data / "cifar10_resnet56.safetensors")}],
        "datasets": [{"dataset": "cifar10", "config": {key: str(data / file) for key, file in files.items()}}],
        "recipes": [{"name": "fp32"}, *({"name": m, "steps": [{"quantize": {"method": m}}]} for m in METHODS)],
        "targets": [
            {"name": b, "backend": b, "options": {"threads": 2}} for b in ("onnxruntime", "openvino", "pytorch")
        ],
        "batch_sizes": [1, 32],
        "measure": {"min_seconds": 2, "max_seconds": 4},
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
