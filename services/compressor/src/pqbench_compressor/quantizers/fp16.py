"""FP16 weights and arithmetic with FP32 inputs and outputs (ONNX Runtime's float16 converter)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import onnx
import torch
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import nn

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_compressor.export import to_pt2
from pqbench_compressor.plugins import Context, Needs, Source
from pqbench_wire.errors import Refused

REQUIRES = ("torch", "onnx", "onnxruntime")
PRECISION = Precision.PRECISION_FP16
FORMS = (Form.FORM_ONNX, Form.FORM_PT2)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to configure."""


class HalfBody(nn.Module):
    """A model in FP16 between FP32 inputs and outputs."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.body = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [N, C, H, W] to float32 [N, classes]."""
        return self.body(x.half()).float()


def needs(config: Config) -> Needs:
    return Needs()


def quantize(source: Source, config: Config, context: Context, forms: tuple[Form, ...]) -> dict[Form, bytes]:
    artifacts = {}
    if Form.FORM_ONNX in forms:
        model = onnx.load_from_string(source.onnx())
        typed = convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=False)
        (ordered := ONNXModel(typed)).topological_sort()
        artifacts[Form.FORM_ONNX] = ordered.model.SerializeToString(deterministic=True)
    if Form.FORM_PT2 in forms:
        artifacts[Form.FORM_PT2] = _half_pt2(source, context)
    return artifacts


def _half_pt2(source: Source, context: Context) -> bytes:
    if source.module is None:
        raise Refused("an ONNX file has no PyTorch program")
    return to_pt2(HalfBody(copy.deepcopy(source.module).half()).eval(), context.example)
