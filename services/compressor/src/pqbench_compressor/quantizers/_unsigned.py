"""Form U, ONNX Runtime's own placement of Q/DQ nodes: unsigned asymmetric activations, INT8 weights, INT32 biases.

It also quantizes the outputs of convolutions, so that they run as integers from end to end, but not
those of matrix products. With weights of 7 bits, no two products of an activation and a weight exceed 16 bits: x86 CPUs
without VNNI add them up in 16 bits (VPMADDUBSW), which saturates (ONNX Runtime's documentation, "reduce_range").
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from onnx import helper
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from pqbench_compressor.graph import COMPUTE, Graph
from pqbench_compressor.quantizers._ranges import CARRIERS, Ranges, carriers, joined

INT32_MAX = 2.0**31 - 1
SEVEN_BITS_MAX = 64.0


def unsigned(model: bytes, ranges: Ranges, keep: Iterable[str] = (), seven_bits: bool = False) -> bytes:
    """Form U: unsigned asymmetric activations, INT8 weights, INT32 biases; ONNX Runtime's quantizer.

    `seven_bits`: weights are from -SEVEN_BITS_MAX to SEVEN_BITS_MAX.
    """
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
        reduce_range=seven_bits,
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
