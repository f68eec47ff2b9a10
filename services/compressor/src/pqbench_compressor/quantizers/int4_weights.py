"""INT4 weights of matrix products, in blocks with one scale each; activations stay floating point.

Blocks run along the inputs. Rounding is symmetric and to the nearest value (the baseline "RTN" of
Frantar et al., arXiv 2210.17323).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import onnx
from onnx import TensorProto, helper
from pydantic import Field

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench_compressor.graph import Graph, weight_axis
from pqbench_compressor.plugins import Context, Needs, Source
from pqbench_compressor.quantizers._half import typed
from pqbench_compressor.quantizers._signed import SMALLEST_SCALE
from pqbench_wire.errors import Refused

OPSET_INT4 = 21
REQUIRES = ("onnx", "onnxruntime")
PRECISION = Precision.PRECISION_INT4
FORMS = (Form.FORM_QDQ_SIGNED, Form.FORM_QDQ_TYPED)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The size of the blocks."""

    block: Annotated[int, Field(ge=16, le=256, multiple_of=16, description="weights that share a scale")] = 32


def needs(config: Config) -> Needs:
    return Needs()


def quantize(source: Source, config: Config, context: Context, forms: tuple[Form, ...]) -> dict[Form, bytes]:
    source.notes |= Graph(source.onnx()).notes()
    model = _rounded(source.onnx(), config.block)
    return {form: typed(model) if form == Form.FORM_QDQ_TYPED else model for form in forms}


def _rounded(model: bytes, block: int) -> bytes:
    """Weights of matrix products as INT4, rounded to nearest, in blocks of `block` weights along the inputs.

    Raises Refused if no matrix product has a multiple of `block` inputs.
    """
    graph = Graph(model)
    count = 0
    for node in graph.compute_nodes():
        axis = 1 - weight_axis(node) % 2
        if node.op_type not in ("MatMul", "Gemm") or graph.array(node.input[1]).shape[axis] % block:
            continue
        count += 1
        _quantize(graph, node, axis, block)
    if not count:
        raise Refused(f"no matrix product of this model has inputs in multiples of {block}")
    return graph.finish(OPSET_INT4)


def _quantize(graph: Graph, node: onnx.NodeProto, axis: int, block: int) -> None:
    weight = graph.array(node.input[1])
    blocks = np.moveaxis(weight, axis, 0).reshape(-1, block, weight.shape[1 - axis])
    scale = np.maximum(np.abs(blocks).max(1) / 7, SMALLEST_SCALE).astype(np.float32)
    values = np.clip(np.round(blocks / scale[:, None]), -8, 7).reshape(-1, weight.shape[1 - axis])
    stem = node.input[1]
    stored = helper.make_tensor(
        f"{stem}_int4", TensorProto.INT4, weight.shape, np.moveaxis(values, 0, axis).astype(np.int8).ravel().tolist()
    )
    inputs = [graph.add_tensor(stored), graph.add_constant(f"{stem}_scale", np.moveaxis(scale, 0, axis))]
    output = f"{inputs[0]}_dequantized"
    graph.model.graph.node.append(
        helper.make_node("DequantizeLinear", inputs, [output], name=f"{output}_node", axis=axis, block_size=block)
    )
    node.input[1] = output
