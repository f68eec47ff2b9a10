"""Every technique on every model of the thesis: pruned or quantized, exported, run by ONNX Runtime, compared.

    python benchmarks/matrix.py IMAGES      IMAGES: imagenet_sample.zip (1,000 ImageNet images)

Prints a table and writes results/matrix.json and docs/matrix.md; goes on where it was interrupted, and tries techniques
that are new or changed. To try all again, delete results/matrix.json.
Weights are random, drawn with a seed, with batch norms calibrated on real images and no layer of
zeros: what is tried is that a technique works on an architecture, not what accuracy it leaves. A cell
holds the signal-to-noise ratio of the ONNX outputs (dB) against PyTorch's for a pruned model, against
the FP32 model's for a quantized one; or the number of the reason why the technique is refused, from
a list below the table.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from pictures import pictures_of
from PIL import Image
from torch import nn

from pqbench.common.v1.common_pb2 import Form, Images, Preprocessing
from pqbench.compressor.v1 import compressor_pb2 as pb
from pqbench_compressor.checks import Checker
from pqbench_compressor.loading import Loader
from pqbench_compressor.pipeline import Pipeline
from pqbench_compressor.plugins import MODELS, QUANTIZERS, Context, Files, Training
from pqbench_compressor.recalibrate import Config, recalibrate
from pqbench_orchestrator.config.recipes import Step
from pqbench_orchestrator.dataset import fit
from pqbench_orchestrator.steps.compress import step_message
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import PqbenchError, Refused

ROOT = Path(__file__).parent.parent
RESULT, PAGE = ROOT / "benchmarks/results/matrix.json", ROOT / "docs/matrix.md"
COUNT = 16  # images: half calibrate and train, all verify
CALIBRATION = 16
HALF = {"amount": 0.5}
REMOVAL = HALF | {"images": 8, "target": "macs"}
DEPTH = {"amount": 0.3, "images": 8}
TRAINED = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-4}
CRITERIA = ("random", "l1", "l2", "taylor", "sensitivity", "hessian", "bn-scale", "lamp", "fpgm", "reconstruction")
Technique = tuple[str, list[tuple[str, str, dict[str, Any]]]]
PRUNING: list[Technique] = [
    ("random", [("prune", "random-unstructured", HALF)]),
    ("L1", [("prune", "l1-unstructured", HALF)]),
    ("L1 global", [("prune", "l1-global", HALF)]),
    ("L1 auto", [("prune", "l1-auto", HALF | {"images": 2})]),
    ("Ln structured, dim 0", [("prune", "ln-structured", HALF)]),
    ("Ln structured, dim 1, n 1", [("prune", "ln-structured", HALF | {"dim": 1, "n": 1})]),
    ("random structured", [("prune", "random-structured", HALF)]),
    ("2:4", [("prune", "nm", {})]),
    *((f"removal {criterion}", [("prune", "removal", REMOVAL | {"criterion": criterion})]) for criterion in CRITERIA),
    ("removal l2 global", [("prune", "removal", REMOVAL | {"scope": "global"})]),
    ("removal l2 isomorphic", [("prune", "removal", REMOVAL | {"scope": "isomorphic"})]),
    ("removal l2 of parameters", [("prune", "removal", REMOVAL | {"target": "parameters"})]),
    ("removal, whole heads", [("prune", "removal", HALF | {"heads": "whole"})]),
    ("removal + recalibrate", [("prune", "removal", REMOVAL), ("recalibrate", "", {"images": 32})]),
    ("removal + compensate", [("prune", "removal", REMOVAL), ("compensate", "", {"images": CALIBRATION})]),
    ("depth", [("prune", "depth", DEPTH)]),
    ("depth + compensate", [("prune", "depth", DEPTH), ("compensate", "", {"images": CALIBRATION})]),
    ("removal + distillation", [("prune", "removal", REMOVAL), ("finetune", "", TRAINED | {"distill": True})]),
]
CALIBRATED = {"images": CALIBRATION}
QUANTIZATION: list[Technique] = [
    ("FP16", [("quantize", "fp16", {})]),
    ("BF16", [("quantize", "bf16", {})]),
    *(
        (f"INT8 static, {method}", [("quantize", "int8-static", CALIBRATED | {"ranges": method})])
        for method in ("min-max", "percentile", "entropy", "mse")
    ),
    ("INT8 static, equalized", [("quantize", "int8-static", CALIBRATED | {"equalization": "cross-layer"})]),
    ("INT8 dynamic", [("quantize", "int8-dynamic", {})]),
    ("INT8 QAT", [("quantize", "int8-qat", CALIBRATED | TRAINED)]),
    ("FP8", [("quantize", "fp8-static", CALIBRATED)]),
    ("INT4 weights, nearest", [("quantize", "int4-weights", {"rounding": "nearest"})]),
    ("INT4 weights, GPTQ", [("quantize", "int4-weights", CALIBRATED)]),
    ("simulated W4A8", [("quantize", "simulated", CALIBRATED | {"weights": 4})]),
    (
        "simulated W4A8, AdaRound",
        [("quantize", "simulated", CALIBRATED | {"weights": 4, "rounding": "adaround", "steps": 50})],
    ),
    ("INT8 by ONNX Runtime", [("quantize", "int8-ort", CALIBRATED)]),
    ("INT8 by NNCF", [("quantize", "int8-nncf", CALIBRATED)]),
    ("INT8 by ModelOpt", [("quantize", "int8-modelopt", CALIBRATED)]),
    ("INT8 by Neural Compressor", [("quantize", "int8-inc", CALIBRATED)]),
    ("INT8 by torchao", [("quantize", "int8-torchao", CALIBRATED)]),
    ("removal + INT8 static", [("prune", "removal", REMOVAL), ("quantize", "int8-static", CALIBRATED)]),
]
TECHNIQUES = PRUNING + QUANTIZATION
Cells = dict[str, dict[str, str]]  # technique -> model -> what the table says


class Subject:
    """A model with random weights, and images for it."""

    def __init__(self, name: str, pictures: list[Image.Image], store: BlobStore) -> None:
        self.plugin, _, self.member = name.rpartition("/")
        self.plugin = self.plugin or "thesis"
        plugin = MODELS.load(self.plugin)
        info = plugin.info(self.member, plugin.Config(), Files())
        images = np.stack([fit(picture, info.preprocessing) for picture in pictures])
        self.images = images_message(images, info.classes, store)
        torch.manual_seed(0)
        module = plugin.build(self.member, plugin.Config(), Files())
        _make_plausible(module, images, info.preprocessing)
        self.weights = store.put(safetensors.torch.save({k: v.clone() for k, v in module.state_dict().items()}))

    def request(self, technique: Technique) -> pb.CompressRequest:
        """The request that compresses it and exports every ONNX form that ONNX Runtime can run."""
        model = pb.Model(plugin=self.plugin, name=self.member, weights=pb.WEIGHTS_FILE, file=self.weights)
        steps = [as_written(kind, name, config) for kind, name, config in technique[1]]
        request = pb.CompressRequest(model=model, steps=steps, training=self.images, verification=self.images)
        kind, plugin, _ = technique[1][-1]
        forms = QUANTIZERS.load(plugin).FORMS if kind == "quantize" else (Form.FORM_ONNX,)
        # One form stands for all in this matrix: the first that is not PyTorch's.
        request.forms.append(next(form for form in forms if form != Form.FORM_PT2))
        return request


def images_message(images: np.ndarray, classes: int, store: BlobStore) -> Images:
    """Images with made-up labels: random weights know no right ones."""
    labels = np.random.default_rng(0).integers(0, classes or 10, len(images))
    return Images(images=store.put_array(images), labels=store.put_array(labels))


def _make_plausible(module: nn.Module, images: np.ndarray, preprocessing: Preprocessing) -> None:
    """No layer of zeros, batch norms that fit real images, scales that differ."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear) and not layer.weight.any():
            nn.init.trunc_normal_(layer.weight, std=0.02)
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
    data = Training(images=images, labels=np.zeros(len(images), np.int64), preprocessing=preprocessing)
    context = Context(seed=0, report=lambda *_: None, classes=0, images=data.inputs(slice(2)), training_split=data)
    recalibrate(module, Config(images=32, batch_size=16), context)


def as_written(kind: str, name: str, config: dict[str, Any]) -> pb.Step:
    """A step as a manifest writes it: what a manifest cannot reach is not measured."""
    return step_message(Step.model_validate({kind: ({"method": name} if name else {}) | config}))


def cell(loader: Loader, resume: Path, subject: Subject, technique: Technique) -> str:
    """What the table says of a technique on a model."""
    request, pipeline = subject.request(technique), Pipeline(loader, resume)
    try:
        refused = Checker(loader).check(pb.CheckRequest(model=request.model, steps=request.steps)).refused
        if refused:
            raise Refused(refused)
        if any(kind == "compensate" or config.get("distill") for kind, _, config in technique[1]):
            unpruned = pb.CompressRequest(model=request.model, verification=subject.images)
            request.baseline.CopyFrom(pipeline.compress(unpruned, lambda *_: None).checkpoint)
        result = pipeline.compress(request, lambda *_: None)
    except PqbenchError as error:
        return f"*{error}*" if isinstance(error, Refused) else f"**{type(error).__name__}: {error}**"
    return f"{result.verifications[0].sqnr_db:.0f}"


def run(models: list[str], pictures: list[Image.Image], techniques: list[Technique], cells: Cells, save: Any) -> None:
    """Fill in the cells that are missing; `save` is called after each."""
    with tempfile.TemporaryDirectory() as folder:
        loader, resume = Loader(store=BlobStore(Path(folder, "blobs")), allow_code=False), Path(folder, "training")
        for model in models:
            missing = [t for t in techniques if model not in cells.setdefault(t[0], {})]
            if not missing:
                continue
            subject = Subject(model, pictures, loader.store)
            for technique in missing:
                begin = time.monotonic()
                cells[technique[0]][model] = cell(loader, resume, subject, technique)
                print(
                    f"{model:18} {technique[0]:28} {time.monotonic() - begin:6.1f} s  {cells[technique[0]][model]}",
                    flush=True,
                )
                save()


def page(cells: Cells, models: list[str], dates: dict[str, str]) -> str:
    """The table as Markdown, reasons as numbered notes."""
    notes: dict[str, int] = {}

    def text(value: str) -> str:
        if not value.startswith("*"):
            return value
        number = notes.setdefault(value, len(notes) + 1)
        return f"{'failed' if value.startswith('**') else 'refused'} [{number}]"

    rows = [
        f"| {technique} | "
        + " | ".join([*(text(cells.get(technique, {}).get(model, "")) for model in models), dates[technique]])
        + " |"
        for technique, _ in TECHNIQUES
    ]
    head = ["| technique | " + " | ".join([*models, "date"]) + " |", "| --- |" + " --- |" * (len(models) + 1)]
    listed = [f"{number}. {reason.strip('*')}" for reason, number in notes.items()]
    return "\n".join([INTRODUCTION, *head, *rows, "", "## Reasons", *listed, ""])


INTRODUCTION = f"""# Every technique on every model of the thesis

Generated by `make matrix`, each row with the code of its date; some techniques have changed since. The models
are those of the master thesis tool "PQ Bench", which pqbench succeeds. For each entry, the model was pruned or
quantized, exported to ONNX, run by ONNX Runtime on {COUNT} real images and compared: a number is the
signal-to-noise ratio in dB of the ONNX outputs, against the pruned PyTorch model or, where a technique
quantizes, against the FP32 model. Weights are random (with batch norms calibrated on real images), so the table
shows what works on which architecture, not what accuracy is left. Removal takes half of the
multiply-accumulates unless the row says otherwise.
"""


def main(archive: Path) -> None:
    """Fill in the matrix and write the page."""
    models = list(MODELS.load("thesis").names())
    kept = json.loads(RESULT.read_text()) if RESULT.is_file() else {"steps": {}, "dates": {}, "cells": {}}
    steps = {name: repr(steps) for name, steps in TECHNIQUES}
    unchanged = [name for name in steps if kept["steps"].get(name) == steps[name]]
    cells: Cells = {name: kept["cells"][name] for name in unchanged}
    dates = {name: time.strftime("%Y-%m-%d") for name in steps} | {name: kept["dates"][name] for name in unchanged}

    def save() -> None:
        done = {name: steps[name] for name in cells}
        RESULT.write_text(json.dumps({"steps": done, "dates": {n: dates[n] for n in cells}, "cells": cells}, indent=1))
        PAGE.write_text(page(cells, models, dates))

    run(models, pictures_of(archive, COUNT), TECHNIQUES, cells, save)
    print(page(cells, models, dates))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
