"""The normal form of ONNX graphs, exported by pqbench or given by a user, on which quantizers rely.

Functions are inlined. Constants are initializers. Batch normalisation is folded into the convolution or `Gemm` before
it. A `Gemm` with a constant weight and a constant bias vector has no `alpha` or `beta`. Nodes that nothing reads are
removed. Names are unique. The opset is at least 20. The passes and rewrite rules come from onnx_ir and onnxscript,
except the rules that treat numbers close to 0 or 1 as 0 or 1: `x + 1e-9`, which prevents a division by zero, must stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import inliner, numpy_helper, version_converter
from onnx_ir.passes import common as passes
from onnxscript import rewriter
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter.rules.common import (
    _basic_rules,
    _broadcast_to_matmul,
    _cast_constant_of_shape,
    _collapse_slices,
    _fuse_batchnorm,
    _fuse_pad_into_conv,
    _fuse_relus_clips,
    _materialize_reshape_shape,
    _min_max_to_clip,
    _no_op,
    _redundant_scatter_nd,
    _remove_optional_bias,
)

from pqbench_compressor import transposed_keys
from pqbench_wire.errors import InvalidInput, TooLarge, first_line
from pqbench_wire.shared.onnx_walk import all_graphs, stored_tensors

OPSET = 20
LEAST_IR = 8  # lowest ONNX IR version of the result: constants need not be graph inputs in it
MAX_ONNX = 2 << 30  # bytes: protobuf's limit for one message
LARGEST_FILLED = 1 << 20  # elements of a constant that is filled with one value; a larger one stays a node
LARGEST_CONSTANT = 1 << 28  # elements: constant folding creates no larger constant
ROUNDS = 3  # rounds of all rules at most: one rewrite can enable another
RULES = (
    _no_op.dropout_zero_rule,
    _no_op.dropout_inference_rule,
    *_broadcast_to_matmul.rules,
    *_cast_constant_of_shape.rules,
    *_collapse_slices.rules,
    *_materialize_reshape_shape.rules,
    *_min_max_to_clip.rules,
    *_fuse_relus_clips.rules,
    *_basic_rules.basic_optimization_rules(),
    *_redundant_scatter_nd.rules,
    *_fuse_pad_into_conv.rules,
    *_fuse_batchnorm.rules,
    *_remove_optional_bias.rules,
    transposed_keys.rule(),
)
KEPT = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")  # not folded: they say how constants are stored
GROWING = ("Expand", "Tile", "ConstantOfShape", "Range", "Resize", "Upsample", "OneHot")  # small input, large output
QUANTIZED = (*KEPT, "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "MatMulNBits", "QGemm")


def normal_form(model: ir.Model) -> None:
    """Bring a model into the normal form, in place. Its opset stays as it is."""
    passes.InlinePass()(model)
    for _ in range(ROUNDS):
        passes.IdentityEliminationPass()(model)
        folded = fold_constants_ir(
            model, onnx_shape_inference=True, output_size_limit=LARGEST_CONSTANT, should_fold=_folds
        )
        lifted = passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        written = rewriter.RewritePass(RULES)(model)
        passes.RemoveUnusedNodesPass()(model)
        if not (folded.modified or lifted.modified or written.modified):
            break
    for last in (
        passes.RemoveUnusedFunctionsPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.LiftSubgraphInitializersToMainGraphPass(),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),  # unique names: layers are identified by that of their node
        passes.TopologicalSortPass(),
    ):
        last(model)


def _folds(node: ir.Node) -> bool | None:
    """Whether to fold a node whose inputs are all constants; None: onnxscript decides by their size."""
    if node.op_type in KEPT:
        return False
    if node.op_type == "ConstantOfShape":  # which onnxscript never folds
        (given,) = node.inputs
        shape = None if given is None else ir.convenience.get_const_tensor(given)
        return shape is not None and int(np.prod(shape.numpy())) <= LARGEST_FILLED
    return None if node.op_type in GROWING else True


def read(name: str, data: bytes, external: Mapping[str, Path]) -> onnx.ModelProto:
    """A user's ONNX model with its external weights read into it.

    `external` maps each location that the ONNX file refers to onto the file that holds those weights; no other file is
    opened. Raises InvalidInput if it is not a valid model or weights are missing, TooLarge if it reaches 2 GB.
    """
    try:
        model = onnx.load_from_string(data)
    except Exception as error:  # protobuf's errors have no common base class
        raise InvalidInput(f"{name}: not an ONNX file: {first_line(error)}") from error
    for tensor in stored_tensors(model):
        _take_in(tensor, external, name)
    if model.ByteSize() >= MAX_ONNX:
        raise TooLarge(f"{name}: with its weights it is over the 2 GB that one ONNX file can hold")
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # onnx's errors have no common base class
        raise InvalidInput(f"{name}: not a valid ONNX model: {first_line(error)}") from error
    _only_true_inputs(model)
    for number, node in enumerate(node for graph in all_graphs(model.graph) for node in graph.node):
        _name_what_is_left_out(node, number)
    return model


def _name_what_is_left_out(node: onnx.NodeProto, number: int) -> None:
    """Remove omitted inputs and outputs at the end, and name the outputs omitted before others.

    They need names because shapes are stored by name.
    """
    for names in (node.input, node.output):
        while names and not names[-1]:
            del names[-1]
    node.output[:] = [name or f"pqbench_unread_{number}_{index}" for index, name in enumerate(node.output)]


def normalised(name: str, model: onnx.ModelProto) -> bytes:
    """A user's model in the normal form, as bytes; an opset below 20 is converted to 20.

    Raises InvalidInput if it cannot be converted.
    """
    try:
        if model.functions:
            model = inliner.inline_local_functions(model)
        if _opset(model) < OPSET:
            model = version_converter.convert_version(model, OPSET)
        graph = ir.serde.deserialize_model(model)
        normal_form(graph)
        model = ir.serde.serialize_model(graph)
        model.ir_version = max(model.ir_version, LEAST_IR)
        finish(model)
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the libraries' errors have no common base class
        raise InvalidInput(
            f"{name}: this ONNX model cannot be converted to opset {OPSET}: {first_line(error)}"
        ) from error
    return model.SerializeToString(deterministic=True)


def finish(model: onnx.ModelProto) -> None:
    """The steps of the normal form that onnx_ir and onnxscript do not do, in place.

    Subgraphs output only their own tensors. `Gemm` nodes lose `alpha` and `beta`, and their biases become vectors.
    Unused initializers are removed.
    """
    for inner in list(all_graphs(model.graph))[1:]:
        _own_outputs(inner)
    for node in model.graph.node:
        if node.op_type == "Gemm":
            _plain_gemm(model.graph, node)
    used = {name for graph in all_graphs(model.graph) for node in graph.node for name in node.input}
    used |= {output.name for graph in all_graphs(model.graph) for output in graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _own_outputs(inner: onnx.GraphProto) -> None:
    """Let a subgraph copy with `Identity` what it outputs from outside: ONNX allows only tensors of its own."""
    own = {name for node in inner.node for name in node.output}
    own |= {one.name for one in inner.input} | {tensor.name for tensor in inner.initializer}
    for index, output in enumerate(inner.output):
        if output.name not in own:
            passed, output.name = output.name, f"{output.name}#passed{index}"
            inner.node.append(onnx.helper.make_node("Identity", [passed], [output.name]))


def quantized_operator(model: onnx.ModelProto) -> str:
    """The type of the first quantized operator in a model; empty if the model is not quantized."""
    nodes = (node for graph in all_graphs(model.graph) for node in graph.node)
    return next((node.op_type for node in nodes if node.op_type in QUANTIZED), "")


def _plain_gemm(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """Fold `alpha` and `beta` into a constant weight and bias, and make the bias a vector [N], as quantizers expect."""
    constants = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name in node.input
    }
    attributes = {one.name: one for one in node.attribute}
    if (weight := constants.get(node.input[1])) is None:
        return
    if "alpha" in attributes:
        if (alpha := attributes["alpha"].f) != 1.0:
            _replace(graph, node, 1, weight * np.asarray(alpha, weight.dtype))
        node.attribute.remove(attributes["alpha"])
    if len(node.input) < 3 or (bias := constants.get(node.input[2])) is None:
        return
    width = weight.shape[0 if "transB" in attributes and attributes["transB"].i else 1]
    if bias.size not in (1, width) or bias.shape[:-1] not in ((), (1,)):
        return  # no quantizer handles a bias of another shape: the layer stays as it is
    beta = attributes["beta"].f if "beta" in attributes else 1.0
    if beta != 1.0 or bias.shape != (width,):
        _replace(graph, node, 2, np.broadcast_to(bias.reshape(-1), (width,)) * np.asarray(beta, bias.dtype))
    if "beta" in attributes:
        node.attribute.remove(attributes["beta"])


def _replace(graph: onnx.GraphProto, node: onnx.NodeProto, index: int, array: np.ndarray) -> None:
    """Give one node a new constant as input `index`; other nodes keep the old one."""
    new = numpy_helper.from_array(np.ascontiguousarray(array), f"{node.input[index]}#{node.output[0]}")
    graph.initializer.append(new)
    node.input[index] = new.name


def _opset(model: onnx.ModelProto) -> int:
    return next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), OPSET)


def _only_true_inputs(model: onnx.ModelProto) -> None:
    """Remove constants from the graph inputs, where files of older IR versions list them."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, LEAST_IR)


def _take_in(tensor: onnx.TensorProto, external: Mapping[str, Path], name: str) -> None:
    """Read a tensor's external data into the model. Raises InvalidInput if the file or the bytes do not exist."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return
    given = {entry.key: entry.value for entry in tensor.external_data}
    location = given.get("location", "")
    if location not in external:
        raise InvalidInput(f"{name}: stores {tensor.name} in the file {location!r}, which was not sent with it")
    try:
        offset, length = int(given.get("offset", 0)), int(given.get("length", -1))
    except ValueError as error:
        raise InvalidInput(f"{name}: {tensor.name}: its offset or length in {location!r} is not a number") from error
    size = external[location].stat().st_size
    length = size - offset if length < 0 else length
    if offset < 0 or offset + length > size:
        raise InvalidInput(f"{name}: {location!r} has {size} bytes; {tensor.name} ends at byte {offset + length}")
    with external[location].open("rb") as file:
        file.seek(offset)
        tensor.raw_data = file.read(length)
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]
