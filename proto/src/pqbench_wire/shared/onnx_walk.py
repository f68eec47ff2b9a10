"""Iterates over the graphs and tensors of an ONNX model, including subgraphs and functions.

Messages are onnx's own, or those of pqbench.onnx.v1, whose types and fields have the same names.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from pqbench.onnx.v1.onnx_view_pb2 import ModelProto
from pqbench_wire.errors import InvalidInput

EXTERNAL = 1  # onnx.TensorProto.EXTERNAL


def inner_graphs(node: Any) -> Iterator[Any]:
    """The subgraphs in a NodeProto's attributes: branches and loop bodies."""
    for one in node.attribute:
        yield from (*one.graphs, *([one.g] if one.HasField("g") else []))


def all_graphs(graph: Any) -> Iterator[Any]:
    """A GraphProto and all subgraphs in its nodes, at any depth."""
    yield graph
    for node in graph.node:
        for inner in inner_graphs(node):
            yield from all_graphs(inner)


def stored_tensors(model: Any) -> Iterator[Any]:
    """Every TensorProto of a ModelProto: dense and sparse initializers and attributes, also in functions."""
    nodes = [node for function in model.functions for node in function.node]
    graphs = list(all_graphs(model.graph))
    for node in nodes:
        graphs += [graph for inner in inner_graphs(node) for graph in all_graphs(inner)]
    sparse = [one for graph in graphs for one in graph.sparse_initializer]
    for graph in graphs:
        yield from graph.initializer
        nodes += graph.node
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        yield from (*attribute.tensors, *([attribute.t] if attribute.HasField("t") else []))
        sparse += [
            *attribute.sparse_tensors,
            *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
        ]
    for one in sparse:
        yield from (one.values, one.indices)


def external_location(tensor: Any) -> str:
    """The file beside the model in which a TensorProto keeps its values; empty if the model itself holds them."""
    if tensor.data_location != EXTERNAL:
        return ""
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def opset_of(file: Path) -> int:
    """The version of ONNX's own opset that an ONNX file uses; 0: it uses none. Raises InvalidInput for other files."""
    return max((one.version for one in _read(file).opset_import if one.domain in ("", "ai.onnx")), default=0)


def external_locations(file: Path) -> list[str]:
    """The names of the files with an ONNX file's external weights. Raises InvalidInput if it is not an ONNX file."""
    model = _read(file)
    return list(dict.fromkeys(found for tensor in stored_tensors(model) if (found := external_location(tensor))))


def _read(file: Path) -> ModelProto:
    try:
        model = ModelProto.FromString(file.read_bytes())
    except DecodeError as error:
        raise InvalidInput(f"{file} is not an ONNX file") from error
    if not model.HasField("graph"):
        raise InvalidInput(f"{file} is not an ONNX file: it has no graph")
    return model
