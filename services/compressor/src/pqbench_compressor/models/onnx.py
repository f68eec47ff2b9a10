"""An existing ONNX file with one image input and one output; it can be quantized, not pruned."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench_compressor.plugins import Context, Files, ModelInfo
from pqbench_wire.errors import Refused

REQUIRES = ("torch", "onnx", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to configure: the file says it all."""


def names() -> tuple[str, ...]:
    return ("path/to/file.onnx",)


def info(name: str, config: Config, files: Files) -> ModelInfo:
    return ModelInfo(preprocessing=Preprocessing(), classes=0)


def build(name: str, config: Config, files: Files) -> nn.Module:
    raise Refused(f"{name} is an ONNX file: it has no PyTorch module to prune or train")


def pretrained(name: str, config: Config, files: Files, context: Context) -> nn.Module:
    return build(name, config, files)
