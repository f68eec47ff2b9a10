"""Checks while planning whether a user's ONNX file accepts the data it will get, and runs on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench_wire.errors import first_line
from pqbench_wire.shared.inputs import Inputs, named

ANY = 3  # batch size to try a file whose batch axis is free: not 2, which is often the length of another axis


@dataclass(frozen=True, kw_only=True)
class Found:
    """The result of a check."""

    refused: str = ""  # why the file cannot be used; empty if it can
    fixed_batch: int = 0  # the only batch size that it accepts; 0: any
    classes: int = 0  # of a single output [N, classes]; 0: the outputs are different


def examine(model: onnx.ModelProto, preprocessing: Preprocessing) -> Found:
    """Compare the declared inputs with the preprocessing and run the model, unoptimised, on one small batch."""
    inputs = list(model.graph.input)
    if refused := _declared(inputs, preprocessing):
        return Found(refused=refused)
    fixed = fixed_batch(inputs)
    batch = fixed or ANY
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        outputs = session.run(None, named(_example(preprocessing, batch), [one.name for one in inputs]))
    except Exception as error:  # ONNX Runtime's errors have no common base class
        return Found(refused=f"ONNX Runtime cannot run this file: {first_line(error)}")
    names = [one.name for one in session.get_outputs()]
    for name, output in zip(names, outputs, strict=True):
        if not isinstance(output, np.ndarray):
            return Found(refused=f"output {name} is a {type(output).__name__}; every output must be one tensor")
        if not output.ndim or len(output) != batch:
            shape = list(output.shape)
            return Found(
                refused=f"output {name} is {shape} for {batch} examples; the first axis of each must be the batch"
            )
    classes = outputs[0].shape[1] if len(outputs) == 1 and outputs[0].ndim == 2 else 0
    return Found(fixed_batch=fixed, classes=classes)


def fixed_batch(inputs: Iterable[onnx.ValueInfoProto]) -> int:
    """The only batch size that the declared inputs allow, or 0 for any; some files declare a free axis as -1."""
    shapes = [one.type.tensor_type.shape.dim for one in inputs]
    return max((0, *(axes[0].dim_value for axes in shapes if len(axes))))


def _declared(inputs: list[onnx.ValueInfoProto], preprocessing: Preprocessing) -> str:
    """Why the declared inputs do not match the data; empty if they do."""
    if preprocessing.inputs:
        wanted = {one.name: (one.dtype, list(one.shape)) for one in preprocessing.inputs}
    elif len(inputs) == 1:
        p = preprocessing
        wanted = {inputs[0].name: ("float32", [p.channels, p.height, p.width])}
    else:
        return f"this file takes {', '.join(one.name for one in inputs)}; without one image input, list them as inputs"
    for one in inputs:
        if one.name not in wanted:
            return f"this file takes {one.name}, which is not listed under inputs"
        dtype, shape = wanted[one.name]
        tensor = one.type.tensor_type
        own = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)) if tensor.elem_type else "no tensor"
        if own != dtype:
            return f"its input {one.name} is {own}; it would be given {dtype}"
        axes = tensor.shape.dim
        if tensor.HasField("shape") and not _fits(axes, shape):
            shown = ", ".join(str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in axes)
            return f"its input {one.name} is [{shown}]; it would be given [N, {', '.join(map(str, shape))}]"
    return ""


def _fits(axes: Sequence[onnx.TensorShapeProto.Dimension], shape: list[int]) -> bool:
    if len(axes) != len(shape) + 1:
        return False
    return all(d.dim_value <= 0 or d.dim_value == size for d, size in zip(axes[1:], shape, strict=True))


def _example(preprocessing: Preprocessing, batch: int) -> np.ndarray | Inputs:
    if preprocessing.inputs:
        return Inputs({one.name: np.ones((batch, *one.shape), one.dtype) for one in preprocessing.inputs})
    shape = (batch, preprocessing.channels, preprocessing.height, preprocessing.width)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)
