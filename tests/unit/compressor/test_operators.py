"""The operators of the exported models: those of the model's own code, without artefacts of the exporter."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from pqbench_compressor import export
from pqbench_compressor.plugins import MODELS, Files, ModelInfo

HEAD = {"Conv", "Gemm", "Relu", "Reshape"}
CHANNELS = {"Gather", "Unsqueeze", "Mul", "Add"}  # GoogLeNet and Inception v3 normalise their input channel by channel
# model of the thesis -> its operators, and whether it is exported in seconds
OPERATORS: dict[str, set[str]] = {
    "alexnet": HEAD | {"AveragePool", "MaxPool"},
    "densenet": HEAD | {"AveragePool", "BatchNormalization", "Concat", "MaxPool", "ReduceMean"},
    "googlenet": HEAD | CHANNELS | {"Concat", "MaxPool", "ReduceMean"},
    "inceptionv3": HEAD | CHANNELS | {"AveragePool", "Concat", "MaxPool", "ReduceMean"},
    "mobilenetv2": {"Add", "Clip", "Conv", "Gemm", "ReduceMean", "Reshape"},
    "resnet": HEAD | {"Add", "MaxPool", "ReduceMean"},
    "shufflenetv2": HEAD | {"Concat", "MaxPool", "ReduceMean", "Split", "Transpose"},
    "simplenet": HEAD | {"MaxPool", "ReduceMax"},
    "squeezenet": {"Concat", "Conv", "MaxPool", "ReduceMean", "Relu", "Reshape"},
    # Shape, Concat and Expand give the class token the batch's size; Gather takes it out again.
    "visiontransformer": {
        "Add", "Concat", "Conv", "Expand", "Gather", "Gelu", "Gemm", "LayerNormalization", "MatMul", "Mul", "Reshape",
        "Shape", "Softmax", "Transpose",
    },
}  # fmt: skip
QUICK = ("resnet", "squeezenet")
SLOW = ("densenet", "inceptionv3", "googlenet")


def exported(plugin: str, name: str) -> onnx.ModelProto:
    """A model with random weights as ONNX."""
    torch.manual_seed(0)
    models = MODELS.load(plugin)
    config = models.Config()
    info: ModelInfo = models.info(name, config, Files())
    example = np.zeros((2, 3, info.preprocessing.height, info.preprocessing.width), np.float32)
    return onnx.load_from_string(export.to_onnx(models.build(name, config, Files()).eval(), example))


def marks(name: str) -> list[pytest.MarkDecorator]:
    more = [pytest.mark.more] if name in SLOW else []
    return [] if name in QUICK else [pytest.mark.long, *more]


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in OPERATORS])
def test_a_model_of_the_thesis_has_no_other_operators(name: str) -> None:
    assert {node.op_type for node in exported("thesis", name).graph.node} == OPERATORS[name]


def test_there_is_a_row_for_every_model_of_the_thesis() -> None:
    assert set(OPERATORS) == set(MODELS.load("thesis").names())


def test_attention_has_one_shape_for_the_class_token_alone() -> None:
    graph = exported("timm", "test_vit").graph
    shapes = {name for node in graph.node if node.op_type == "Shape" for name in node.output}
    readers = [node.op_type for node in graph.node if shapes & set(node.input)]
    assert len(shapes) == 1 and readers == ["Concat"], "the batch's size, for the class token"
    weights = {one.name for one in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMul" and not weights & set(node.input)]
    assert len(products) == 2 * [node.op_type for node in graph.node].count("Softmax") > 0


def test_masks_are_constants_and_pooling_of_a_channels_last_tensor_is_a_mean() -> None:
    """What Swin needs: a mask that is filled by slices, and pooling behind a permutation."""

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = torch.nn.AdaptiveAvgPool2d(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mask = x.new_zeros((8, 8))
            for value, part in enumerate((slice(0, 4), slice(4, 8))):
                mask[part, :] = value
            return self.pool((x + mask).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)).flatten(1)

    graph = onnx.load_from_string(export.to_onnx(Net().eval(), np.zeros((2, 3, 8, 8), np.float32))).graph
    kinds = {node.op_type for node in graph.node}
    assert "ReduceMean" in kinds and kinds <= {"Add", "Transpose", "ReduceMean", "Reshape"}, kinds
