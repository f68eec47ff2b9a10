"""FP16 weights and arithmetic with FP32 inputs and outputs; layers that would overflow stay FP32.

An FP32 run over training images (verification images, if there are no training images) finds layers
whose values come within a factor `margin` of 65,504, the largest FP16 number. They could overflow in
FP16 (Micikevicius et al., arXiv 1710.03740). ONNX models are converted with ONNX Runtime's converter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import onnx
import torch
from pydantic import Field

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_compressor.export import to_pt2
from pqbench_compressor.graph import Graph
from pqbench_compressor.opset import lowered
from pqbench_compressor.plugins import Context, Needs, Source
from pqbench_compressor.quantizers import _calibration
from pqbench_compressor.quantizers._half import half
from pqbench_compressor.quantizers._narrow import narrowed
from pqbench_wire.shared.inputs import Feed

REQUIRES = ("torch", "onnx", "onnxruntime")
PRECISION = Precision.PRECISION_FP16
FORMS = (Form.FORM_ONNX, Form.FORM_PT2, Form.FORM_ONNX_UNTYPED)
LARGEST = 65504.0  # the largest FP16 number
IMAGES = 64  # training images on which overflow is looked for


@dataclass(frozen=True, kw_only=True)
class Config:
    """How far below the largest FP16 number values must stay."""

    margin: Annotated[
        float, Field(ge=1, description="layers with values over the largest FP16 number divided by this stay FP32")
    ] = 2.0


def needs(config: Config) -> Needs:
    return Needs(training_if_any=True)


def quantize(source: Source, config: Config, context: Context, forms: tuple[Form, ...]) -> dict[Form, bytes]:
    limit = LARGEST / config.margin
    inputs = _real(context)
    artifacts = {}
    if Form.FORM_ONNX in forms:
        keep = _beyond(source.onnx(), inputs, limit)
        source.notes["kept_fp32"] = keep
        artifacts[Form.FORM_ONNX] = half(onnx.load_from_string(source.onnx()), keep)
    if Form.FORM_PT2 in forms:
        module, keep = narrowed(source.module, torch.float16, inputs, limit)
        source.notes["kept_fp32_in_pytorch"] = keep
        artifacts[Form.FORM_PT2] = to_pt2(module, context.example)
    if Form.FORM_ONNX_UNTYPED in forms:
        artifacts[Form.FORM_ONNX_UNTYPED] = lowered(source.onnx())
    return artifacts


def _real(context: Context) -> Feed:
    """Training images, which are not used for scoring; the verification images if there is no training split."""
    return context.images if context.training_split is None else context.training.sample(IMAGES, context.seed)


def _beyond(model: bytes, inputs: Feed, limit: float) -> list[str]:
    """Names of the nodes that read or write a value beyond `limit`."""
    graph = Graph(model)
    tensors = {name: 0 for node in graph.float_nodes() for name in node.output}
    seen = _calibration.extremes(model, tensors, inputs)
    large = {name for name, (low, high) in seen.items() if max(-low, high) > limit}
    large |= {name for name in graph.constants if _exceeds(graph.array(name), limit)}
    return [n.name for n in graph.nodes if large.intersection([*n.input, *n.output])]


def _exceeds(array: np.ndarray, limit: float) -> bool:
    return bool(array.size) and np.issubdtype(array.dtype, np.floating) and bool(np.abs(array).max() > limit)
