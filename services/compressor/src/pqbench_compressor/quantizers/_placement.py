"""Places Q/DQ nodes, after NVIDIA's rules for TensorRT and ONNX Runtime's rules for its CPU kernels.

The signed form (A) quantizes the inputs and weights of compute layers, but not their outputs. Of a
residual addition it quantizes only the skip input, so that convolution, addition and activation
fuse. All inputs of a concatenation have one scale. Biases stay FP32, and so do convolutions with
fewer than 16 channels and weight matrices of one row or column. Sources: ModelOpt's graph_utils.py
and ort_utils.py, pytorch-quantization's quant_resnet50.
The unsigned form (U) is ONNX Runtime's own placement. It also quantizes the outputs of convolutions,
so that they run as integers from end to end, but not those of matrix products. Biases are INT32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.transformers.float16 import convert_float_to_float16

from pqbench_compressor.graph import COMPUTE, Graph, attribute, weight_axis
from pqbench_wire.errors import Refused

Ranges = Mapping[str, tuple[float, float]]
SMALL = 16  # channels: with fewer, INT8 kernels of GPUs gain nothing
CARRIERS = ("Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Relu", "Clip", "Reshape", "Transpose",
            "Split", "Slice", "Pad")  # fmt: skip
INT8_MAX, FP8_MAX, INT32_MAX = 127.0, 448.0, 2.0**31 - 1
SMALLEST_SCALE = 1e-7  # TensorRT needs scales above zero; FP16 cannot hold much smaller ones
OPSET_INT4 = 21


def watched(graph: Graph) -> dict[str, int | None]:
    """The tensors whose ranges any form may need -> their channel axis; None if channels are not watched."""
    axes: dict[str, int | None] = {}
    for node in graph.compute_nodes():
        product = node.op_type in ("MatMul", "Gemm")
        axes[node.input[0]] = -1 if product else 1
        if not product:
            axes[node.output[0]] = 1
    for node in carriers(graph):
        for name in [*node.input, *node.output]:
            if name and not graph.is_constant(name):
                axes.setdefault(name, None)
    convolved = {name for n in graph.compute_nodes() if n.op_type.startswith("Conv") for name in n.output}
    for node in graph.nodes:
        if node.op_type == "Add" and convolved.intersection(node.input):
            axes.update({name: None for name in node.input if name not in axes and not graph.is_constant(name)})
    return axes


def carriers(graph: Graph) -> list[onnx.NodeProto]:
    """The nodes that only move, clip, pool or add outputs of convolutions: in form U they run as integers."""
    outputs: set[str] = set()
    found = []
    for node in graph.nodes:
        inputs = [name for name in node.input if name and not graph.is_constant(name)]
        carries = node.op_type in CARRIERS and bool(inputs) and all(name in outputs for name in inputs)
        carries = carries and not _pads_with_infinity(graph, node)
        if carries:
            found.append(node)
        if carries or node.op_type in ("Conv", "ConvTranspose", "HardSwish"):
            outputs.update(node.output)
    return found


def _pads_with_infinity(graph: Graph, node: onnx.NodeProto) -> bool:
    value = node.input[2] if node.op_type == "Pad" and len(node.input) > 2 else ""
    return bool(value) and not (graph.is_constant(value) and bool(np.isfinite(graph.array(value)).all()))


def joined(graph: Graph, ranges: Ranges) -> dict[str, tuple[float, float]]:
    """The ranges, with one common range for the inputs and the output of each concatenation."""
    result = dict(ranges)
    for node in reversed(graph.nodes):
        names = [name for name in [*node.input, *node.output] if name in result]
        if node.op_type == "Concat" and names:
            lows, highs = zip(*(result[name] for name in names), strict=True)
            result.update(dict.fromkeys(names, (min(lows), max(highs))))
    return result


def signed(model: bytes, ranges: Ranges, keep: Iterable[str] = (), fp8: bool = False) -> bytes:
    """Form A: INT8 or FP8 E4M3 Q/DQ around FP32 tensors; nodes named in `keep` stay FP32.

    Raises Refused if no layer is left to quantize.
    """
    graph = Graph(model)
    ranges, kept = joined(graph, ranges), set(keep)
    chosen = [n for n in worthwhile(graph) if n.name not in kept]
    if not chosen:
        raise Refused(f"nothing to quantize: every layer is kept, or has under {SMALL} channels")
    writer = _Writer(graph, fp8)
    for node in chosen:
        node.input[0] = writer.activation(node.input[0], ranges)
        node.input[1] = writer.weight(node)
    names = {n.name for n in chosen}
    for node in graph.nodes:
        if node.op_type == "Add" and (index := _skip_input(graph, node, names)) is not None:
            node.input[index] = writer.activation(node.input[index], ranges)
    return writer.finish()


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


def unsigned(model: bytes, ranges: Ranges, keep: Iterable[str] = ()) -> bytes:
    """Form U: unsigned asymmetric activations, INT8 weights, INT32 biases; ONNX Runtime's quantizer."""
    graph = Graph(model)
    graph.isolate()  # ONNX Runtime's quantizer removes a ReLU if it sees no other reader of its input
    carrying = {n.name for n in carriers(graph)}
    excluded = [n.name for n in graph.nodes if n.op_type in CARRIERS and n.name not in carrying]
    excluded += [n.name for n in graph.nodes if n.op_type in COMPUTE and graph.hindrance(n)]
    data = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in joined(graph, ranges).items()
    }
    quantizer = QDQQuantizer(
        graph.model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data),
        nodes_to_quantize=[],
        nodes_to_exclude=[*excluded, *keep],
        op_types_to_quantize=["Conv", "ConvTranspose", "Gemm", "MatMul", *CARRIERS],
        extra_options={
            "ActivationSymmetric": False,
            "WeightSymmetric": True,
            "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
        },
    )
    quantizer.quantize_model()
    placed = Graph(quantizer.model.model.SerializeToString())
    _quantize_added_biases(placed)
    return placed.finish()


def _quantize_added_biases(graph: Graph) -> None:
    """Store biases that are added to matrix products as INT32 with DequantizeLinear.

    ONNX Runtime first fuses product and addition into Gemm, and then looks for an integer kernel. With
    an FP32 bias it finds none, and the product would run in FP32.
    """
    outputs, read = graph.producers(), graph.consumers()
    for product in [n for n in graph.nodes if n.op_type == "MatMul"]:
        sources = [outputs.get(name) for name in product.input]
        readers = read[product.output[0]]
        if any(n is None or n.op_type != "DequantizeLinear" for n in sources) or [n.op_type for n in readers] != [
            "Add"
        ]:
            continue
        index = 1 - list(readers[0].input).index(product.output[0])
        bias = readers[0].input[index]
        scale = np.atleast_1d(math.prod(graph.array(n.input[1]) for n in sources if n is not None))
        if graph.is_constant(bias) and (values := _as_int32(graph.array(bias), scale)) is not None:
            readers[0].input[index] = _dequantized(graph, bias, values, scale)


def _as_int32(bias: np.ndarray, scale: np.ndarray) -> np.ndarray | None:
    """The bias in units of `scale`; None if it is not a vector or exceeds INT32."""
    scaled = np.round(bias.astype(np.float64) / scale)
    fits = bias.ndim == 1 and len(scale) in (1, len(bias)) and np.abs(scaled).max() < INT32_MAX
    return scaled.astype(np.int32) if fits else None


def _dequantized(graph: Graph, name: str, values: np.ndarray, scale: np.ndarray) -> str:
    scales = np.broadcast_to(scale, values.shape).astype(np.float32)
    inputs = [
        graph.add_constant(f"{name}_quantized", values),
        graph.add_constant(f"{name}_scale", scales),
        graph.add_constant(f"{name}_zero_point", np.zeros_like(values)),
    ]
    output = f"{inputs[0]}_dequantized"
    graph.model.graph.node.append(helper.make_node("DequantizeLinear", inputs, [output], name=f"{output}_node", axis=0))
    return output


def weight_only_int4(model: bytes, block: int) -> bytes:
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
        _int4(graph, node, axis, block)
    if not count:
        raise Refused(f"no matrix product of this model has inputs in multiples of {block}")
    return graph.finish(OPSET_INT4)


def weight_scales(weight: np.ndarray, axis: int, largest: float = INT8_MAX) -> np.ndarray:
    """Symmetric scales, float32 [channels], of a weight whose output channels are on `axis`; `largest`: of the type."""
    others = tuple(d for d in range(weight.ndim) if d != axis % weight.ndim)
    return np.maximum(np.abs(weight).max(others) / largest, SMALLEST_SCALE).astype(np.float32)


class _Writer:
    """Inserts Q/DQ pairs, one for each tensor."""

    def __init__(self, graph: Graph, fp8: bool) -> None:
        self._graph, self._largest = graph, FP8_MAX if fp8 else INT8_MAX
        self._type = TensorProto.FLOAT8E4M3FN if fp8 else TensorProto.INT8
        self._done: dict[str, str] = {}
        self._zeros: dict[tuple[int, ...], str] = {}
        self._new: list[onnx.NodeProto] = []

    def activation(self, name: str, ranges: Ranges) -> str:
        """The name of an activation's dequantized tensor."""
        if name not in self._done:
            low, high = ranges[name]
            scale = np.float32(max(-low, high, SMALLEST_SCALE * self._largest) / self._largest)
            self._done[name] = self._pair(name, np.asarray(scale), None)
        return self._done[name]

    def weight(self, node: onnx.NodeProto) -> str:
        """The name of a weight's dequantized tensor; the weight stays stored as FP32, before the Q/DQ pair."""
        name, axis = node.input[1], weight_axis(node)
        key = f"{name}@{axis}"
        if key not in self._done:
            array = self._graph.array(name)
            self._done[key] = self._pair(name, weight_scales(array, axis, self._largest), axis % array.ndim)
        return self._done[key]

    def finish(self) -> bytes:
        """The graph's bytes with the new nodes."""
        self._graph.model.graph.node.extend(self._new)
        return self._graph.finish()

    def _pair(self, name: str, scale: np.ndarray, axis: int | None) -> str:
        stem = f"{name}@{axis}" if axis is not None else name
        scale_name = self._graph.add_constant(f"{stem}_scale", scale)
        zero = self._zero(scale.shape)
        attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
        quantized, dequantized = f"{stem}_quantized", f"{stem}_dequantized"
        for kind, source, target in (
            ("QuantizeLinear", name, quantized),
            ("DequantizeLinear", quantized, dequantized),
        ):
            self._new.append(
                helper.make_node(kind, [source, scale_name, zero], [target], name=f"{target}_node", **attributes)
            )
        return dequantized

    def _zero(self, shape: tuple[int, ...]) -> str:
        if shape not in self._zeros:
            count = int(np.prod(shape))
            tensor = helper.make_tensor(f"zero_{count}", self._type, shape, bytes(count), raw=True)
            self._zeros[shape] = self._graph.add_tensor(tensor)
        return self._zeros[shape]


def worthwhile(graph: Graph) -> list[onnx.NodeProto]:
    """The compute nodes that the signed form quantizes: all but small ones."""
    return [node for node in graph.compute_nodes() if not _is_small(graph, node)]


def _is_small(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a convolution has few channels, or a weight matrix only one row or column."""
    shape = graph.array(node.input[1]).shape
    if node.op_type not in ("Conv", "ConvTranspose"):
        return min(shape) == 1
    groups = attribute(node, "group", 1)
    return min(shape[0], shape[1] * groups) < SMALL


def _skip_input(graph: Graph, node: onnx.NodeProto, quantized: set[str]) -> int | None:
    """The index of the skip input of a residual addition; None if the addition is not residual.

    It is the input that no quantized layer feeds directly, or the second one if quantized layers feed both.
    """
    producers, consumers = graph.producers(), graph.consumers()

    def fuses(name: str) -> bool:
        producer = producers.get(name)
        return producer is not None and producer.name in quantized and len(consumers[name]) == 1

    straight = [fuses(name) for name in node.input]
    if not any(straight) or any(graph.is_constant(name) for name in node.input):
        return None
    return straight.index(False) if not all(straight) else 1


def _int4(graph: Graph, node: onnx.NodeProto, axis: int, block: int) -> None:
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
