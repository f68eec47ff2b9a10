"""Converts tensors of the Open Inference Protocol to arrays and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pqbench.inference import open_inference_pb2 as pb
from pqbench.runtime.v1.worker_pb2 import Tensor
from pqbench_runtime.oip_regions import PARAMETERS, Regions, is_shared
from pqbench_wire.errors import InvalidInput

VERSION = "1"  # the only one: an engine never changes, and another engine has another name


@dataclass(frozen=True)
class Type:
    """The protocol's name of a NumPy type; `contents` is the field of typed values, "" where only bytes are allowed."""

    name: str
    number: pb.DataType
    contents: str


TYPES: dict[str, Type] = {
    "bool": Type("BOOL", pb.TYPE_BOOL, "bool_contents"),
    "uint8": Type("UINT8", pb.TYPE_UINT8, "uint_contents"),
    "uint16": Type("UINT16", pb.TYPE_UINT16, "uint_contents"),
    "uint32": Type("UINT32", pb.TYPE_UINT32, "uint_contents"),
    "uint64": Type("UINT64", pb.TYPE_UINT64, "uint64_contents"),
    "int8": Type("INT8", pb.TYPE_INT8, "int_contents"),
    "int16": Type("INT16", pb.TYPE_INT16, "int_contents"),
    "int32": Type("INT32", pb.TYPE_INT32, "int_contents"),
    "int64": Type("INT64", pb.TYPE_INT64, "int64_contents"),
    "float16": Type("FP16", pb.TYPE_FP16, ""),
    "float32": Type("FP32", pb.TYPE_FP32, "fp32_contents"),
    "float64": Type("FP64", pb.TYPE_FP64, "fp64_contents"),
}


def metadata_of(tensor: Tensor) -> pb.ModelMetadataResponse.TensorMetadata:
    """A tensor's name, type and shape, with -1 as the size of the batch axis."""
    shape = [-1, *tensor.shape[1:]]
    return pb.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=TYPES[tensor.dtype].name, shape=shape)


def config_of(tensor: Tensor) -> dict[str, Any]:
    """A tensor's entry in Triton's model configuration; `dims` leaves out the batch axis."""
    return {"name": tensor.name, "data_type": TYPES[tensor.dtype].number, "dims": tensor.shape[1:]}


def inputs_of(
    request: pb.ModelInferRequest, expected: Sequence[Tensor], batch: int, regions: Regions
) -> dict[str, np.ndarray | Tensor]:
    """The request's inputs by name: arrays or tensors in a region, each with the same number of examples, 1 to `batch`.

    Raises InvalidInput where names, types, shapes or sizes are not what the engine takes.
    """
    _no_parameters(request)
    given, raw = {tensor.name: tensor for tensor in request.inputs}, request.raw_input_contents
    if len(given) != len(request.inputs) or set(given) != {tensor.name for tensor in expected}:
        names = ", ".join(tensor.name for tensor in request.inputs) or "none"
        raise InvalidInput(f"the model takes the inputs {', '.join(t.name for t in expected)}; given: {names}")
    sent = [tensor.name for tensor in request.inputs if not is_shared(tensor)]
    if raw and len(raw) != len(sent):
        raise InvalidInput(f"{len(sent)} inputs are not in shared memory, but there are {len(raw)} raw_input_contents")
    contents = dict(zip(sent, raw, strict=True)) if raw else {}
    for one in expected:
        _check(given[one.name], one, batch)
    if len({tensor.shape[0] for tensor in request.inputs}) > 1:
        raise InvalidInput("the inputs differ in their number of examples")
    return {
        one.name: regions.placed(_with_shape(one, given[one.name].shape), given[one.name])
        if is_shared(given[one.name])
        else _array(given[one.name], one, contents.get(one.name))
        for one in expected
    }


def _no_parameters(request: pb.ModelInferRequest) -> None:
    """Raise InvalidInput for parameters but shared memory: classification, sequences, priorities are not supported."""
    tensors: list[Any] = [*request.inputs, *request.outputs]
    known = {name for tensor in tensors if is_shared(tensor) for name in PARAMETERS}
    names = [*request.parameters, *(key for tensor in tensors for key in tensor.parameters if key not in known)]
    if names:
        raise InvalidInput(f"the parameter {names[0]!r} is not supported")


def _check(given: Any, expected: Tensor, batch: int) -> None:
    shape, wanted, kind = list(given.shape), list(expected.shape[1:]), TYPES[expected.dtype]
    if given.datatype != kind.name:
        raise InvalidInput(f"input {given.name} is {kind.name}, given {given.datatype or 'no datatype'}")
    if shape[1:] != wanted or not shape or not 1 <= shape[0] <= batch:
        raise InvalidInput(f"input {given.name} is [1 to {batch}, {', '.join(map(str, wanted))}], given {shape}")
    if is_shared(given) and given.HasField("contents"):
        raise InvalidInput(f"input {given.name} is given twice, as contents and in shared memory")


def _array(given: Any, expected: Tensor, raw: bytes | None) -> np.ndarray:
    kind, dtype, shape = TYPES[expected.dtype], np.dtype(expected.dtype), list(given.shape)
    count = math.prod(shape)
    if raw is not None:
        if given.HasField("contents"):
            raise InvalidInput(f"input {given.name} is given twice, as contents and as raw_input_contents")
        if len(raw) != count * dtype.itemsize:
            raise InvalidInput(f"input {given.name} {shape} is {count * dtype.itemsize} bytes, given {len(raw)}")
        return np.frombuffer(raw, dtype.newbyteorder("<")).reshape(shape)
    if not kind.contents:
        raise InvalidInput(f"input {given.name}: {kind.name} travels in raw_input_contents")
    values = getattr(given.contents, kind.contents)
    if len(values) != count:
        raise InvalidInput(f"input {given.name} {shape} is {count} values in {kind.contents}, given {len(values)}")
    if dtype.kind in "iu" and not np.iinfo(dtype).min <= min(values) <= max(values) <= np.iinfo(dtype).max:
        raise InvalidInput(f"input {given.name}: a value is out of the range of {kind.name}")
    return np.array(values, dtype).reshape(shape)


def wanted_outputs(request: pb.ModelInferRequest, outputs: Sequence[Tensor]) -> set[str]:
    """The names of the outputs that a request wants, all if it names none. Raises InvalidInput for an unknown name."""
    names = {tensor.name for tensor in outputs}
    wanted = {tensor.name for tensor in request.outputs}
    if unknown := sorted(wanted - names):
        raise InvalidInput(f"the model gives the outputs {', '.join(sorted(names))}; asked for {', '.join(unknown)}")
    return wanted or names


def placed_outputs(
    request: pb.ModelInferRequest, outputs: Sequence[Tensor], rows: int, regions: Regions
) -> list[Tensor]:
    """The outputs that a request wants in a region, `rows` examples of each. Raises InvalidInput."""
    known = {tensor.name: tensor for tensor in outputs}
    wanted = [one for one in request.outputs if is_shared(one)]
    return [regions.placed(_with_shape(known[one.name], [rows, *known[one.name].shape[1:]]), one) for one in wanted]


def _with_shape(tensor: Tensor, shape: Iterable[int]) -> Tensor:
    return Tensor(name=tensor.name, dtype=tensor.dtype, shape=shape)


def response_of(
    request: pb.ModelInferRequest, outputs: Sequence[Tensor], contents: Mapping[str, bytes]
) -> pb.ModelInferResponse:
    """The response with outputs, whose bytes `contents` has, by name, unless they are in a client's memory.

    Values are raw bytes where the request's were, where an input was in shared memory, and where an output's type has
    no field of typed values. An output in a region has no bytes, and the region in its parameters.
    """
    response = pb.ModelInferResponse(model_name=request.model_name, model_version=VERSION, id=request.id)
    has_untyped = any(not TYPES[tensor.dtype].contents for tensor in outputs)
    as_bytes = has_untyped or bool(request.raw_input_contents) or any(map(is_shared, request.inputs))
    regions = {one.name: one for one in request.outputs if is_shared(one)}
    for tensor in outputs:
        kind = TYPES[tensor.dtype]
        output = response.outputs.add(name=tensor.name, datatype=kind.name, shape=tensor.shape)
        if tensor.name in regions:
            for name in regions[tensor.name].parameters:
                output.parameters[name].CopyFrom(regions[tensor.name].parameters[name])
        elif not as_bytes:
            getattr(output.contents, kind.contents).extend(np.frombuffer(contents[tensor.name], tensor.dtype).tolist())
        if as_bytes:
            response.raw_output_contents.append(contents[tensor.name])
    return response
