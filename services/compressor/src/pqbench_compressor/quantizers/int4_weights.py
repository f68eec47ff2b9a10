"""INT4 weights of matrix products, in blocks with one scale each; activations stay floating point.

Blocks run along the inputs; TensorRT documents those of 64 and 128 weights. Rounding is symmetric, by GPTQ (Frantar et
al., arXiv 2210.17323), which sees training images, or to the nearest value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from pydantic import Field

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_compressor.graph import Graph, weight_axis
from pqbench_compressor.plugins import Context, Needs, Source
from pqbench_compressor.quantizers import _gptq
from pqbench_compressor.quantizers._half import typed
from pqbench_compressor.quantizers._signed import SMALLEST_SCALE
from pqbench_wire.errors import Refused

OPSET_INT4 = 21
REQUIRES = ("torch", "onnx", "onnxruntime")
PRECISION = Precision.PRECISION_INT4
FORMS = (Form.FORM_QDQ_SIGNED, Form.FORM_QDQ_TYPED)
DOCUMENTED = (64, 128)  # by TensorRT


@dataclass(frozen=True, kw_only=True)
class Config:
    """The size of the blocks, and how weights are rounded."""

    block: Annotated[
        int,
        Field(
            ge=16,
            le=256,
            multiple_of=16,
            description="weights that share a scale; 64 where a layer has no multiple of 128 inputs",
        ),
    ] = 128
    rounding: Annotated[
        Literal["gptq", "nearest"], Field(description="gptq: with the least change of each layer's outputs")
    ] = "gptq"
    images: Annotated[int, Field(ge=1, description="training images for gptq, drawn with the run's seed")] = 128


def needs(config: Config) -> Needs:
    return Needs(training=config.rounding == "gptq")


def withheld(config: Config) -> tuple[tuple[Form, ...], str]:
    if config.block in DOCUMENTED:
        return (), ""
    return (Form.FORM_QDQ_TYPED,), f"TensorRT takes blocks of 64 or 128 weights, not {config.block}"


def quantize(source: Source, config: Config, context: Context, forms: tuple[Form, ...]) -> dict[Form, bytes]:
    graph = Graph(source.onnx())
    source.notes |= graph.notes()
    sizes = _blocks(graph, config.block)
    moments: Mapping[str, _gptq.Moments] = {}
    if config.rounding == "gptq":
        inputs = context.training.sample(config.images, context.seed)
        source.notes["calibration_images"] = len(inputs)
        read = {node.input[0]: sizes[node.name] for node in graph.compute_nodes() if node.name in sizes}
        moments = _gptq.second_moments(source.onnx(), read, inputs, context.report)
    chosen = [node for node in graph.compute_nodes() if node.name in sizes]
    for index, node in enumerate(chosen):
        context.report("round weights", index / len(chosen), node.name)
        _quantize(graph, node, sizes[node.name], moments.get(node.input[0]))
    model = graph.finish(OPSET_INT4)
    return {form: typed(model) if form == Form.FORM_QDQ_TYPED else model for form in forms}


def _blocks(graph: Graph, block: int) -> dict[str, int]:
    """The products that can be quantized -> the size of their blocks: `block` or, in place of 128, also 64.

    Raises Refused if no product has a multiple of a block's size as inputs.
    """
    sizes = (128, 64) if block == 128 else (block,)
    found = {}
    for node in graph.compute_nodes():
        inputs = graph.array(node.input[1]).shape[_input_axis(node)] if node.op_type in ("MatMul", "Gemm") else 1
        if fitting := next((size for size in sizes if inputs % size == 0), 0):
            found[node.name] = fitting
    if not found:
        raise Refused(f"no matrix product of this model has inputs in multiples of {min(sizes)}")
    return found


def _input_axis(node: onnx.NodeProto) -> int:
    return 1 - weight_axis(node) % 2


def _quantize(graph: Graph, node: onnx.NodeProto, block: int, moments: _gptq.Moments | None) -> None:
    """Give a product its weight as INT4; `moments` of its inputs, or None to round to the nearest value."""
    stem, axis = node.input[1], _input_axis(node)
    weight = np.moveaxis(graph.array(stem), axis, 1)
    values, scale = _nearest(weight, block) if moments is None else _by_moments(weight, moments, block)
    stored = np.moveaxis(values, 1, axis)
    inputs = [
        graph.add_tensor(
            helper.make_tensor(f"{stem}_int4", TensorProto.INT4, stored.shape, stored.astype(np.int8).ravel().tolist())
        ),
        graph.add_constant(f"{stem}_scale", np.moveaxis(scale, 1, axis)),
    ]
    output = f"{inputs[0]}_dequantized"
    graph.model.graph.node.append(
        helper.make_node("DequantizeLinear", inputs, [output], name=f"{output}_node", axis=axis, block_size=block)
    )
    node.input[1] = output


def _nearest(weight: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers [outputs, inputs] and scales float32 [outputs, blocks] of a weight [outputs, inputs]."""
    blocks = weight.reshape(len(weight), -1, block)
    scale = np.maximum(np.abs(blocks).max(2) / 7, SMALLEST_SCALE).astype(np.float32)
    return np.clip(np.round(blocks / scale[:, :, None]), -8, 7).reshape(weight.shape), scale


def _by_moments(weight: np.ndarray, moments: _gptq.Moments, block: int) -> tuple[np.ndarray, np.ndarray]:
    """The same, by GPTQ."""
    values, scale = _gptq.rounded(torch.tensor(weight), moments, block, SMALLEST_SCALE)
    return values.numpy(), scale.numpy()
