"""An existing ONNX file; it can be quantized, but not pruned or fine-tuned.

Without `preprocessing` or `inputs` in the manifest, its inputs are arrays as the file declares them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from torch import nn

from pqbench.common.v1.common_pb2 import Input, Preprocessing
from pqbench_compressor.plugins import Context, Files, ModelInfo
from pqbench_wire.errors import InvalidInput, Refused, first_line

REQUIRES = ("torch", "onnx", "onnxruntime")
IS_FILE = True  # it has no PyTorch module: it can only be quantized


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to configure: the file defines the model."""


def names() -> tuple[str, ...]:
    return ("path/to/file.onnx",)


def info(name: str, config: Config, files: Files) -> ModelInfo:
    if files.code is None:
        raise InvalidInput(f"model {name}: its file is missing")
    return ModelInfo(preprocessing=Preprocessing(inputs=_inputs(name, files.code)), classes=0)


def _inputs(name: str, file: Path) -> list[Input]:
    """The inputs that the graph declares, without their first axis; a free axis has length 0.

    Such an axis must be given in the manifest. Raises InvalidInput if the file is not an ONNX file.
    """
    try:
        graph = onnx.load(str(file), load_external_data=False).graph
    except Exception as error:  # the errors of protobuf and onnx have no common base class
        raise InvalidInput(f"model {name}: not an ONNX file: {first_line(error)}") from error
    constants = {tensor.name for tensor in graph.initializer}
    return [_input(one) for one in graph.input if one.name not in constants]


def _input(declared: onnx.ValueInfoProto) -> Input:
    tensor = declared.type.tensor_type
    axes = [max(0, axis.dim_value) for axis in tensor.shape.dim[1:]]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return Input(name=declared.name, dtype=str(dtype), shape=axes)


def build(name: str, config: Config, files: Files) -> nn.Module:
    raise Refused(f"{name} is an ONNX file: it has no PyTorch module to prune or train")


def pretrained(name: str, config: Config, files: Files, context: Context) -> nn.Module:
    return build(name, config, files)
