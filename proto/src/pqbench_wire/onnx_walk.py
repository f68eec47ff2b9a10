"""Walking over what an ONNX model holds, graphs inside its nodes and functions too; the types are onnx's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

EXTERNAL = 1  # onnx.TensorProto.EXTERNAL


def inner_graphs(node: Any) -> Iterator[Any]:
    """The graphs in a NodeProto's attributes: branches and bodies of loops."""
    for one in node.attribute:
        yield from (*one.graphs, *([one.g] if one.HasField("g") else []))


def all_graphs(graph: Any) -> Iterator[Any]:
    """A GraphProto and those inside its nodes."""
    yield graph
    for node in graph.node:
        for inner in inner_graphs(node):
            yield from all_graphs(inner)


def stored_tensors(model: Any) -> Iterator[Any]:
    """Every TensorProto of a ModelProto: initializers, sparse ones and attributes, those of functions too."""
    nodes = [node for function in model.functions for node in function.node]
    graphs = list(all_graphs(model.graph))
    for node in nodes:
        graphs += [graph for inner in inner_graphs(node) for graph in all_graphs(inner)]
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        nodes += graph.node
    for node in nodes:
        for attribute in node.attribute:
            yield from (*attribute.tensors, *([attribute.t] if attribute.HasField("t") else []))


def external_location(tensor: Any) -> str:
    """The file beside the model in which a TensorProto keeps its values; empty where it keeps them itself."""
    if tensor.data_location != EXTERNAL:
        return ""
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
