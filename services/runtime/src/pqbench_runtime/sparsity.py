"""Finds the 2:4 pattern in an artifact's weights: sparse tensor cores use it only if a target's option says so."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from pqbench.common.v1.common_pb2 import Form

WEIGHTED = ("Conv", "Gemm", "MatMul")
PASSED = ("QuantizeLinear", "DequantizeLinear", "Cast")  # between a constant and the layer that uses it
GROUP, LARGEST = 4, 2  # at most 2 of 4 neighbours among a layer's inputs are not zero


def unused_pattern(artifact: Path, form: int, options: Any) -> dict[str, str]:
    """The setting that says how many layers have the pattern where the options could use it and do not, else none.

    Archives of torch.export are not looked into.
    """
    if getattr(options, "sparse_weights", True) or form == Form.FORM_PT2:
        return {}
    if find_spec("onnx") is None:  # NVIDIA's images need not have it
        return {"sparsity": "not looked for: pip install onnx"}
    count = layers_with_pattern(artifact)
    return {"sparsity": f"layers with the 2:4 pattern: {count}, unused with sparse_weights=false"} if count else {}


def layers_with_pattern(artifact: Path) -> int:
    """How many convolutions and matrix products of an ONNX file have constant weights with the 2:4 pattern."""
    import onnx

    graph = onnx.load(str(artifact)).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    count = 0
    for node in (node for node in graph.node if node.op_type in WEIGHTED):
        name = node.input[1]
        while name in made_by and made_by[name].op_type in PASSED:
            name = made_by[name].input[0]
        count += name in constants and _has_pattern(onnx.numpy_helper.to_array(constants[name]), _inputs_axis(node))
    return count


def _inputs_axis(node: Any) -> int:
    """The axis of a layer's weights that runs over its inputs."""
    is_transposed = any(one.name == "transB" and one.i for one in node.attribute)
    return 1 if node.op_type == "Conv" or is_transposed else -2


def _has_pattern(weight: np.ndarray, axis: int) -> bool:
    if weight.ndim < 2 or weight.shape[axis] % GROUP or not weight.any():
        return False
    groups = np.moveaxis(weight != 0, axis, -1).reshape(-1, GROUP)
    return bool((groups.sum(1) <= LARGEST).all())
