"""What the orchestrator must know of a user's ONNX file: the files beside it that hold its weights."""

from __future__ import annotations

from pathlib import Path

from pqbench_wire.errors import InvalidInput
from pqbench_wire.jobs import first_line
from pqbench_wire.onnx_walk import external_location, stored_tensors


def external_locations(file: Path) -> list[str]:
    """The names of the files in which an ONNX file keeps weights, each once. Raises InvalidInput for another file."""
    import onnx  # a quarter of a second, for ONNX files only

    try:
        model = onnx.load(str(file), load_external_data=False)
    except Exception as error:  # protobuf's and onnx's own share no root
        raise InvalidInput(f"{file} is not an ONNX file: {first_line(error)}") from error
    return list(dict.fromkeys(found for tensor in stored_tensors(model) if (found := external_location(tensor))))
