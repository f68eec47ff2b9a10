"""INT8 by tool: accuracy and latency of our quantizer, and of the others as they come, in one run.

    python benchmarks/quantizers.py DATA

The same models, the same calibration images (512, or the 64 there are), the same threads, in one run; each
variant is timed interleaved with its FP32 baseline. CIFAR ResNets with their published weights say what accuracy is
left; a ViT and a MobileNet with random weights, on ImageNet images, say what other operators make of the time, and
how near the outputs stay. Prints each cell and how ours stands to the best of the others; writes
results/quantizers.json.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import routes

RESULT = Path(__file__).parent / "results" / "quantizers.json"
OURS = "int8-static"
TOOLS = ("int8-ort", "int8-nncf", "int8-modelopt", "int8-inc", "int8-torchao")
TRAINED, UNTRAINED = ("resnet20", "resnet56"), ("vit_tiny_patch16_224", "mobilenetv2_100")


def main(data: Path) -> None:
    """Run both comparisons."""
    trained, environment = routes.run(experiment(data, TRAINED))
    untrained, _ = routes.run(experiment(data, UNTRAINED))
    report(trained + untrained, environment)


def report(rows: list[dict[str, Any]], environment: dict[str, Any]) -> None:
    """Print the comparison and keep it."""
    for row in rows:
        head = f"{row['model']:20} {row['target']:11} batch {row['batch_size']:3} {row['recipe']:14}"
        percent, decibels = routes.number(row["accuracy_top1_percent"]), routes.number(row["metric_sqnr_db"])
        quality = f"{percent} % {decibels} dB {routes.speed(row)}"
        print(head, quality if row["outcome"] == "ok" else row["reason"])
    standing = [compare(rows, model, target, batch) for model, target, batch in groups(rows)]
    for line in standing:
        print(line)
    RESULT.write_text(json.dumps(
        {"date": time.strftime("%Y-%m-%d"), "standing": standing, "rows": rows, "environment": environment}, indent=1
    ))  # fmt: skip


def experiment(data: Path, models: tuple[str, ...]) -> dict[str, Any]:
    """The manifest: that of `routes`, with these models and the tools as recipes."""
    values = routes.convolutional(data) if models == TRAINED else routes.transformer(data)
    family, weights = (
        ("cifar", str(data.resolve() / "cifar10_{}.safetensors")) if models == TRAINED else ("timm", "none")
    )
    return values | {
        "name": "quantizers",
        "models": [{"model": f"{family}/{model}", "weights": weights.format(model)} for model in models],
        "recipes": [{"name": "fp32"}, *({"name": m, "steps": [{"quantize": {"method": m}}]} for m in (OURS, *TOOLS))],
        "targets": [target for target in values["targets"] if target["backend"] != "pytorch"],
    }


def groups(rows: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
    """What is compared with each other."""
    return list(dict.fromkeys((row["model"], row["target"], row["batch_size"]) for row in rows))


def compare(rows: list[dict[str, Any]], model: str, target: str, batch: int) -> dict[str, Any]:
    """Ours against the best other tool: in accuracy, or nearness of the outputs, and in speed-up over FP32."""
    own = [
        r for r in rows if (r["model"], r["target"], r["batch_size"]) == (model, target, batch) and r["outcome"] == "ok"
    ]
    ours = next(row for row in own if row["recipe"] == OURS)
    others = [row for row in own if row["recipe"] in TOOLS]
    quality = "accuracy_top1_percent" if ours["accuracy_top1_percent"] is not None else "metric_sqnr_db"
    good, fast = (max(others, key=lambda row: row[key]) for key in (quality, "speedup"))
    return {
        "model": model, "target": target, "batch": batch, "quality": quality,
        "ours": ours[quality], "best": good[quality], "best_tool": good["recipe"],
        "speedup": ours["speedup"], "best_speedup": fast["speedup"], "fastest": fast["recipe"],
        "speed_ratio": ours["speedup"] / fast["speedup"],
    }  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
