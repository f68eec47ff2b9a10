"""Every precision on every runtime that runs here: accepted or not, executed in what, how fast against true FP32.

    python benchmarks/routes.py DATA

A convolutional network (CIFAR's ResNet-56, published weights) and a transformer (ViT-Tiny, random weights, on
ImageNet images). Writes docs/precisions.md and results/routes.json. DATA: cifar10_resnet56.safetensors, the lossless
CIFAR-10 files and imagenet_sample.zip.
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
ROOT = Path(__file__).parent.parent
RESULT, PAGE = ROOT / "benchmarks/results/routes.json", ROOT / "docs/precisions.md"
METHODS = ("fp16", "bf16", "int8-static", "int8-dynamic", "fp8-static", "int4-weights", "simulated")
COLUMNS = ("Model", "Recipe", "Target", "Batch Size", "Outcome", "Reason", "Precision", "Form", "Executed Precision",
           "Accuracy", "SQNR (dB)", "Speedup", "Speedup Low", "Speedup High", "Stable")  # fmt: skip
HEAD = """# Precisions, runtimes and forms

Made by `benchmarks/routes.py`. Which form of artifact carries a precision to a runtime (its *route*), what the compute
layers then really execute in, as the runtime reports it, and the speed-up against that runtime's own true FP32,
measured interleaved, with its 95 % interval. A precision that a runtime does not accept is refused while planning. A
test holds acceptance and executed precision (`tests/contract/test_plugins.py`); times are this machine's.

| form | what it is | for |
| --- | --- | --- |
| ONNX | no Q/DQ nodes, typed body, FP32 inputs and outputs | FP32, FP16, BF16 |
| QDQ_SIGNED (A) | Q/DQ, signed activations, FP32 tensors | INT8 of weakly typed TensorRT; FP8, INT4 on CPUs |
| QDQ_UNSIGNED (U) | Q/DQ, unsigned asymmetric activations, FP32 tensors | INT8 on ONNX Runtime and OpenVINO CPUs |
| QDQ_TYPED (B) | as A with an FP16 body and scales, strongly typed | TensorRT 10 and 11 |
| ONNX_UNTYPED | FP32 ONNX, opset 17; the builder lowers precisions: flags, its calibrator | TensorRT 8.6 and 10 |
| DYNAMIC | ONNX Runtime's dynamically quantized operators | ONNX Runtime |
| QDQ_TOOL | as another maker's tool does it by default | comparing tools |
| PT2 | a torch.export archive | PyTorch |

FP16 of ONNX Runtime and OpenVINO on these CPUs, and FP8 everywhere here, are computed in FP32: the
accuracy is the precision's, the speed is not.
Signal-to-noise is of the outputs against FP32 on the same runtime.
"""


def main(data: Path) -> None:
    """Run both experiments in a temporary folder."""
    parts, kept = [HEAD], {}
    for name, manifest in (("ResNet-56", convolutional(data)), ("ViT-Tiny, random weights", transformer(data))):
        rows, environment = run(manifest)
        sizes = manifest["batch_sizes"]
        parts += [f"## {name}", "", *table(rows, sizes), "", f"{host(environment)}, {time.strftime('%Y-%m-%d')}.", ""]
        kept[name] = {"rows": rows, "environment": environment}
    PAGE.write_text("\n".join(parts))
    RESULT.write_text(json.dumps({"date": time.strftime("%Y-%m-%d"), **kept}, indent=1))
    print(PAGE.read_text())


def run(manifest: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of an experiment and its environment record."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "manifest.yaml")
        path.write_text(yaml.safe_dump(manifest))
        command = [sys.executable, "-m", "pqbench_orchestrator.cli", "run", str(path), "--data", name, "--json"]
        done = subprocess.run([*command, "--allow-code"], stdout=subprocess.PIPE, text=True)
        if done.returncode not in (0, SOME_FAILED):
            sys.exit(done.returncode)
        answer = json.loads(done.stdout)
        environment = json.loads((Path(answer["run"]) / "environment.json").read_text())
        return [{column: cell.get(column) for column in COLUMNS} for cell in answer["cells"]], environment


def table(rows: list[dict[str, Any]], sizes: list[int]) -> list[str]:
    """A line for each precision and runtime."""
    heads = " | ".join(f"speed-up, batch {size}" for size in sizes)
    lines = [f"| precision | runtime | form | executed in | accuracy % | signal-to-noise dB | {heads} |"]
    lines.append("| --- |" + " --- |" * (5 + len(sizes)))
    return lines + [line(rows[i : i + len(sizes)]) for i in range(0, len(rows), len(sizes))]


def line(cells: list[dict[str, Any]]) -> str:
    """A row of the table, from the cells of each batch size."""
    first = cells[0]
    head = f"| {first['Precision']} | {first['Target']} |"
    if first["Outcome"] != "ok":
        return f"{head} {first['Outcome']}: {first['Reason']} | | | |" + " |" * len(cells)
    values = [first["Form"], first["Executed Precision"], number(first["Accuracy"]), number(first["SQNR (dB)"])]
    return f"{head} {' | '.join([*values, *map(speed, cells)])} |"


def number(value: float | None) -> str:
    """Two digits, or a dash for what does not apply."""
    return "–" if value is None else f"{value:.2f}"


def speed(row: dict[str, Any]) -> str:
    """Speed-up with its interval; a dash for what is never timed, or is the baseline."""
    return f"{row['Speedup']:.2f} ({row['Speedup Low']:.2f} to {row['Speedup High']:.2f})" if row["Speedup"] else "–"


def host(environment: dict[str, Any]) -> str:
    """The machine, in words."""
    target = next(iter(environment["targets"].values()))
    versions = {name: v for t in environment["targets"].values() for name, v in t["versions"].items()}
    libraries = ", ".join(f"{n} {versions[n]}" for n in ("onnxruntime", "openvino", "torch") if n in versions)
    return f"{target['device']}, 2 threads; {libraries}"


def convolutional(data: Path) -> dict[str, Any]:
    """ResNet-56 on the lossless CIFAR-10 images."""
    data = data.resolve()
    files = {"test": "cifar10_test_lossless846.npz", "train": "cifar10_train_lossless4660.npz"}
    return experiment(
        models=[{"model": "cifar/resnet56", "weights": str(data / "cifar10_resnet56.safetensors")}],
        datasets=[{"dataset": "cifar10", "config": {key: str(data / file) for key, file in files.items()}}],
        batch_sizes=[1, 32],
    )


def transformer(data: Path) -> dict[str, Any]:
    """A vision transformer on ImageNet images without labels."""
    images = {"archive": str(data.resolve() / "imagenet_sample.zip")}
    own = Path(__file__).resolve().with_name("pictures.py")
    return experiment(
        models=[{"model": "timm/vit_tiny_patch16_224", "weights": "none"}],
        datasets=[
            {
                "dataset": f"{own}:pictures",
                "name": "images",
                "config": images,
            }
        ],
        batch_sizes=[1, 8],
    )


def experiment(**values: Any) -> dict[str, Any]:
    """The manifest."""
    return {
        "name": "routes",
        "recipes": [{"name": "fp32"}, *({"name": m, "steps": [{"quantize": {"method": m}}]} for m in METHODS)],
        "targets": [
            {"name": b, "backend": b, "options": {"threads": 2}} for b in ("onnxruntime", "openvino", "pytorch")
        ],
        "measure": {"min_seconds": 2, "max_seconds": 4},
    } | values


if __name__ == "__main__":
    main(Path(sys.argv[1]))
