"""FP16 tensors in a graph whose inputs and outputs stay FP32: form B, and the precision FP16."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import TensorProto
from onnxruntime.transformers.float16 import convert_float_to_float16

from pqbench_compressor.graph import Graph, attribute


def typed(model: bytes) -> bytes:
    """Form B from form A: an FP16 body with FP16 scales between FP32 inputs and outputs."""
    return half(onnx.load_from_string(model))


def half(model: onnx.ModelProto, keep: Iterable[str] = ()) -> bytes:
    """A model with FP16 tensors between FP32 inputs and outputs; nodes named in `keep` stay FP32."""
    graph = Graph(model.SerializeToString())
    inner = graph.isolate()
    graph.model = convert_float_to_float16(
        graph.model, keep_io_types=True, disable_shape_infer=False, node_block_list=[*keep, *inner]
    )
    _pass_between_kept(graph)
    # The converter casts the outputs of the copies for subgraphs to FP16, though the copies stay FP32: skip the casts.
    graph.rename_reads(
        {n.output[0]: n.input[0] for n in graph.nodes if n.op_type == "Cast" and n.output[0].endswith("#inner")}
    )
    return graph.finish()


def _pass_between_kept(graph: Graph) -> None:
    """Connect neighbouring FP32 nodes directly: the converter casts to FP16 and back between them."""
    casts = {n.output[0]: n for n in graph.nodes if n.op_type == "Cast"}
    narrow = {name: n.input[0] for name, n in casts.items() if attribute(n, "to") == TensorProto.FLOAT16}
    wide = {name: narrow[n.input[0]] for name, n in casts.items()
            if attribute(n, "to") == TensorProto.FLOAT and n.input[0] in narrow}  # fmt: skip
    for node in graph.nodes:
        node.input[:] = [wide.get(name, name) for name in node.input]
