"""What the orchestrator must know of a user's ONNX file: the files beside it that hold its weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pqbench_wire.errors import InvalidInput
from pqbench_wire.jobs import first_line


def external_locations(file: Path) -> list[str]:
    """The names of the files in which an ONNX file keeps weights, each once. Raises InvalidInput for another file."""
    import onnx  # a quarter of a second, for ONNX files only

    try:
        model = onnx.load(str(file), load_external_data=False)
    except Exception as error:  # protobuf's and onnx's own share no root
        raise InvalidInput(f"{file} is not an ONNX file: {first_line(error)}") from error
    nodes = [node for function in model.functions for node in function.node]
    tensors = [*_tensors(model.graph), *(tensor for node in nodes for tensor in _of_node(node))]
    found = (entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location")
    return list(dict.fromkeys(found))


def _tensors(graph: Any) -> Iterator[Any]:
    """The tensors stored in a GraphProto and in the graphs of its nodes."""
    yield from graph.initializer
    for node in graph.node:
        yield from _of_node(node)


def _of_node(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        yield from (attribute.t, *attribute.tensors)
        for inner in (attribute.g, *attribute.graphs):
            yield from _tensors(inner)
