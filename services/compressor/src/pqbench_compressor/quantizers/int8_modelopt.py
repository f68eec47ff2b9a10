"""NVIDIA ModelOpt's ONNX quantization with its defaults: signed Q/DQ placed for TensorRT, entropy calibration.

Source: github.com/NVIDIA/Model-Optimizer, modelopt.onnx.quantization. It patches ONNX Runtime's
quantizer for the whole process, so it runs in a separate process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import onnx
from pydantic import Field

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_compressor.opset import lowered
from pqbench_compressor.plugins import Context, Needs, Source
from pqbench_wire.errors import Failed, Refused
from pqbench_wire.process import leashed, spawn
from pqbench_wire.shared.inputs import named

REQUIRES = ("onnx", "onnxruntime", "modelopt")
PRECISION = Precision.PRECISION_INT8
FORMS = (Form.FORM_QDQ_TOOL, Form.FORM_QDQ_SIGNED, Form.FORM_QDQ_TYPED)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The tool's options with its own defaults; the number of images is pqbench's default."""

    images: Annotated[int, Field(ge=1, le=100_000, description="training images, drawn with the run's seed")] = 512
    ranges: Annotated[Literal["entropy", "max"], Field(description="how ranges come from activations")] = "entropy"


def needs(config: Config) -> Needs:
    return Needs(training=True)


def quantize(source: Source, config: Config, context: Context, forms: tuple[Form, ...]) -> dict[Form, bytes]:
    inputs = context.training.sample(config.images, context.seed)
    source.notes["calibration_images"] = len(inputs)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(source.onnx())
        names = [i.name for i in onnx.load(folder / "model.onnx").graph.input]
        np.savez(folder / "inputs.npz", **named(inputs, names))  # type: ignore[arg-type]
        artifacts = {}
        for form in forms:
            context.report("calibrate", 0, f"{len(inputs)} images for {Form.Name(form).removeprefix('FORM_')}")
            # ModelOpt's default is an FP16 body; the form QDQ_SIGNED and CPU targets need FP32.
            body = "fp16" if form == Form.FORM_QDQ_TYPED else "fp32"
            _run(folder, {"calibration_method": config.ranges, "high_precision_dtype": body})
            data = (folder / "quantized.onnx").read_bytes()
            artifacts[form] = lowered(data) if form == Form.FORM_QDQ_SIGNED else data
    return artifacts


def _run(folder: Path, options: dict[str, str]) -> None:
    """Quantize in a separate process. Raises Refused with its last printed line, Failed if a signal ended it."""
    command = [sys.executable, "-m", "pqbench_compressor.quantizers._modelopt", str(folder), json.dumps(options)]
    process = spawn(leashed(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = process.communicate()[0].decode(errors="replace")
    if process.returncode < 0:
        raise Failed(f"ModelOpt's process was ended by signal {-process.returncode}")
    if process.returncode:
        lines = [line.strip() for line in output.splitlines() if line.strip()] or ["no reason given"]
        raise Refused(f"ModelOpt cannot quantize this model: {lines[-1][:300]}")
