"""Exports modules to ONNX and torch.export, and verifies that an artifact computes the same as the model."""

from __future__ import annotations

import ast
import io
import logging
import math
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench.compressor.v1.compressor_pb2 import Verification
from pqbench_compressor.normal_form import MAX_ONNX, OPSET, finish, normal_form
from pqbench_compressor.tensors import dynamic_batch, flattened, names, outputs_of, tensors
from pqbench_wire.errors import Failed, TooLarge, VerificationFailed, first_line
from pqbench_wire.shared.fidelity import sqnr as sqnr
from pqbench_wire.shared.inputs import Feed, flat, named

POOLING = {functional.adaptive_avg_pool1d: 1, functional.adaptive_avg_pool2d: 2, functional.adaptive_avg_pool3d: 3}
NAME_SCOPES = "pkg.torch.onnx.name_scopes"  # where the exporter records the modules that a node comes from
OF_CASTS = ("#bf16", "#fp32", "#inner")  # suffixes of the tensors that casts of the `bf16` quantizer read or write
# The lowest signal-to-noise ratio, in dB, of an artifact's outputs. FP32 and FP16 differ by rounding
# only. For INT8 this is a sanity check: its accuracy is measured on the engine. The form QDQ_TOOL has
# no bound, since what a vendor tool makes of a model is a result, however bad.
LEAST_SQNR = {
    Precision.PRECISION_FP32: 60.0,
    Precision.PRECISION_FP16: 30.0,
    Precision.PRECISION_BF16: 15.0,
    Precision.PRECISION_INT8: 3.0,
    Precision.PRECISION_INT8_DYNAMIC: 3.0,
    Precision.PRECISION_FP8: 3.0,
    Precision.PRECISION_INT4: 0.0,
    Precision.PRECISION_SIMULATED: -math.inf,
}


def to_onnx(module: nn.Module, example: Feed) -> bytes:
    """ONNX with a dynamic batch axis: float32 "input" [batch, C, H, W] to "output" [batch, classes].

    `example` is float32 [2, C, H, W], or two of each of several inputs, which keep their names; several
    outputs are called output_0, output_1 and so on. The graph is in the normal form (`normal_form`), in opset 20.
    Raises Failed if the exporter fails, TooLarge if the model reaches 2 GB.
    """
    with _quiet(), _GlobalPooling():
        try:
            program = torch.onnx.export(
                module.eval(),
                tensors(example),
                dynamo=True,
                dynamic_shapes=dynamic_batch(example),
                input_names=names(example),
                output_names=_output_names(module, example),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
                optimize=False,
            )
            assert program is not None
            normal_form(program.model)
        except Exception as error:
            raise Failed(f"ONNX export: {_root(error)}") from error
    model = program.model_proto
    finish(model)
    _name_by_module(model)
    _strip(model)
    if model.opset_import[0].version != OPSET:
        raise Failed(f"ONNX export: the exporter wrote opset {model.opset_import[0].version} instead of {OPSET}")
    if model.ByteSize() >= MAX_ONNX:
        raise TooLarge(f"ONNX export: {model.ByteSize()} bytes is over the 2 GB that one ONNX file can hold")
    return model.SerializeToString(deterministic=True)


class _GlobalPooling(TorchFunctionMode):
    """Lets average pooling to one value be a mean.

    PyTorch's decomposition of it reads a channels-last tensor by strides, which the exporter writes as Shape, Range and
    Gather, for every value an index.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func in POOLING:
            named_args = dict(zip(("input", "output_size"), args, strict=False)) | given
            tensor, size = named_args["input"], named_args["output_size"]
            if set(size if isinstance(size, (tuple, list)) else [size]) == {1}:
                return tensor.mean(tuple(range(-POOLING[func], 0)), keepdim=True)
        return func(*args, **given)


def to_pt2(module: nn.Module, example: Feed) -> bytes:
    """A torch.export archive with a dynamic batch axis, without stack traces. Raises Failed if the export fails."""
    with _quiet():
        try:
            program = torch.export.export(
                module.eval(),
                tensors(example),
                dynamic_shapes=dynamic_batch(example),
                strict=False,
            )
        except Exception as error:
            raise Failed(f"torch.export: {_root(error)}") from error
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
    return buffer.getvalue()


def verify(artifact: bytes, form: Form, precision: Precision, inputs: Feed, reference: np.ndarray) -> Verification:
    """Compare an artifact's outputs on real data with the `reference` [N, values].

    Raises VerificationFailed if an ONNX artifact is invalid or cannot run, if outputs have another
    shape or are not finite, or if their signal-to-noise ratio is below the precision's bound.
    """
    name = f"{Form.Name(form)} {Precision.Name(precision)}"
    outputs = _run_pt2(artifact, inputs) if form == Form.FORM_PT2 else _run_onnx(artifact, inputs, name)
    if outputs.shape != reference.shape or not np.isfinite(outputs).all():
        raise VerificationFailed(f"{name}: outputs of shape {outputs.shape} must be finite, of shape {reference.shape}")
    if not np.isfinite(reference).all():
        raise VerificationFailed("the model's own outputs are not finite")
    error = float(np.abs(outputs - reference).max())
    ratio = sqnr(reference, outputs)
    least = -math.inf if form == Form.FORM_QDQ_TOOL else LEAST_SQNR[precision]
    if ratio < least:
        raise VerificationFailed(
            f"{name}: outputs differ from the model's: signal-to-noise {ratio:.1f} dB, at least "
            f"{least:.0f} dB wanted; largest error {error:.3g} on {len(inputs)} images"
        )
    return Verification(form=form, sqnr_db=ratio, max_abs_error=error, images=len(inputs))


def run_module(module: nn.Module, inputs: Feed) -> np.ndarray:
    """A module's outputs as float32 [N, values]."""
    with torch.inference_mode():
        return flattened(module.eval()(*tensors(inputs)))


def run_onnx(model: bytes, inputs: Feed) -> np.ndarray:
    """A model's outputs in ONNX Runtime without graph optimisation, as float32 [N, values]."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return _run(onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]), inputs, len(inputs))


def run_fast(model: bytes, inputs: Feed, batch: int = 32) -> np.ndarray:
    """A model's outputs in ONNX Runtime with graph optimisation, computed in batches, as float32 [N, values].

    INT8 products do not saturate, whatever this machine's CPU: a target's form is for the target's CPU.
    """
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = 3
    return _run(onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]), inputs, batch)


def _run(session: onnxruntime.InferenceSession, inputs: Feed, batch: int) -> np.ndarray:
    parts = []
    for part in in_batches(session, inputs, batch):
        outputs = session.run(None, feed_of(session, part))
        parts.append(flat(outputs))
    return np.concatenate(parts)[: len(inputs)]


def fixed_batch(session: onnxruntime.InferenceSession) -> int:
    """The only batch size that a graph accepts; 0 if its batch axis is free."""
    sizes = [one.shape[0] for one in session.get_inputs() if one.shape]
    return next((size for size in sizes if isinstance(size, int)), 0)


def in_batches(session: onnxruntime.InferenceSession, inputs: Feed, batch: int) -> Iterator[Feed]:
    """The inputs in batches of `batch` examples, or of the graph's fixed batch size if it has one.

    A last batch that is too small for a fixed size is filled up with copies of the last example.
    """
    fixed = fixed_batch(session)
    size = fixed or batch
    for start in range(0, len(inputs), size):
        part = inputs[start : start + size]
        missing = size - len(part) if fixed else 0
        yield inputs[np.r_[start : len(inputs), np.full(missing, len(inputs) - 1)]] if missing else part


def feed_of(session: onnxruntime.InferenceSession, inputs: Feed) -> dict[str, np.ndarray]:
    """The inputs by the names of the session's graph, as `session.run` expects them."""
    return named(inputs, [one.name for one in session.get_inputs()])


def _output_names(module: nn.Module, example: Feed) -> list[str]:
    with torch.inference_mode():
        count = len(outputs_of(module, example))
    return ["output"] if count == 1 else [f"output_{index}" for index in range(count)]


def _run_onnx(artifact: bytes, inputs: Feed, name: str) -> np.ndarray:
    try:
        onnx.checker.check_model(onnx.load_from_string(artifact), full_check=True)
        return run_onnx(_widened(artifact), inputs)
    except Exception as error:
        raise VerificationFailed(f"{name}: {type(error).__name__}: {first_line(error)}") from error


def _widened(artifact: bytes) -> bytes:
    """The model with BF16 tensors as FP32, since ONNX Runtime has no BF16 kernels for CPUs; weights stay rounded."""
    model = onnx.load_from_string(artifact)
    narrow, wide = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT
    if all(tensor.data_type != narrow for tensor in model.graph.initializer):
        return artifact
    for tensor in model.graph.initializer:
        if tensor.data_type == narrow:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == narrow:
                attribute.i = wide
    # The casts to and from BF16 now cast FP32 to FP32. ONNX Runtime removes such casts even if a subgraph reads them.
    for node in model.graph.node:
        if node.op_type == "Cast" and any(name.endswith(OF_CASTS) for name in (*node.input, *node.output)):
            node.op_type = "Identity"
            del node.attribute[:]
    del model.graph.value_info[:]
    return model.SerializeToString()


def _run_pt2(artifact: bytes, inputs: Feed) -> np.ndarray:
    program = torch.export.load(io.BytesIO(artifact)).module()  # was exported in evaluation mode, and has no eval()
    with torch.inference_mode():
        return flattened(program(*tensors(inputs)))


def _root(error: BaseException) -> str:
    """The root cause of an exporter's error in one line: exporters wrap it in advice to their own developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {first_line(error)}"


def _name_by_module(model: onnx.ModelProto) -> None:
    """Name each node after the module that it comes from, as "layer1.0.conv1".

    Several nodes of one module, or a node of none, also have their operator in the name, and a number if that is not
    enough: "attention/MatMul_1", "/Concat". No module's path has a slash, so that names are unique.
    """
    modules = [_module_of(node) for node in model.graph.node]
    alone, taken = {name for name, count in Counter(modules).items() if name and count == 1}, Counter[str]()
    for node, module in zip(model.graph.node, modules, strict=True):
        name = module if module in alone else f"{module}/{node.op_type}"
        taken[name] += 1
        node.name = f"{name}_{taken[name] - 1}" if taken[name] > 1 else name


def _module_of(node: onnx.NodeProto) -> str:
    """The path of the innermost module that a node comes from; empty: of none.

    It is that of the node's weight or, of a node without one, what the exporter records: a convolution that was fused
    with a normalisation has the record of the normalisation.
    """
    if len(node.input) > 1 and node.input[1].endswith(".weight"):
        return node.input[1].removesuffix(".weight")
    recorded = next((one.value for one in node.metadata_props if one.key == NAME_SCOPES), "")
    if not recorded:
        return ""
    *scopes, _ = ast.literal_eval(recorded)  # the last one is the name of the operation
    return next((scope for scope in reversed(scopes) if scope and not scope.startswith("_empty_nn_module")), "")


def _strip(model: onnx.ModelProto) -> None:
    """Remove what the exporter records about this machine: stack traces, paths, scopes."""
    graph = model.graph
    model.doc_string = graph.doc_string = ""
    parts: tuple[Any, ...] = (
        model,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    )
    for part in parts:
        del part.metadata_props[:]
        part.doc_string = ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' advice to their own developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
