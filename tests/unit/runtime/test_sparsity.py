"""The 2:4 pattern in an artifact's weights, found however the weights are stored."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pqbench.common.v1.common_pb2 import Form
from pqbench_runtime.sparsity import layers_with_pattern, unused_pattern


def pruned(shape: tuple[int, ...], axis: int) -> np.ndarray:
    """Weights of which two in four along an axis are zero."""
    weight = np.moveaxis(np.ones(shape, np.float32), axis, -1).copy()
    weight[..., ::4] = weight[..., 1::4] = 0
    return np.moveaxis(weight, -1, axis)


def saved(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> Path:
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [tensor("x", TensorProto.FLOAT, None)],
        [tensor("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph), path)
    return path


@pytest.mark.parametrize(
    ("kind", "shape", "axis", "attributes"),
    [
        ("Conv", (8, 16, 3, 3), 1, {}),
        ("Gemm", (16, 8), 0, {}),
        ("Gemm", (8, 16), 1, {"transB": 1}),
        ("MatMul", (2, 16, 8), 1, {}),
    ],
)
def test_the_pattern_runs_over_a_layers_inputs(
    kind: str, shape: tuple[int, ...], axis: int, attributes: dict[str, int], tmp_path: Path
) -> None:
    node = helper.make_node(kind, ["x", "w"], ["y"], **attributes)
    weight = pruned(shape, axis)
    assert layers_with_pattern(saved(tmp_path / "a.onnx", [node], {"w": weight})) == 1
    assert layers_with_pattern(saved(tmp_path / "b.onnx", [node], {"w": np.ones(shape, np.float32)})) == 0
    assert layers_with_pattern(saved(tmp_path / "c.onnx", [node], {"w": np.zeros(shape, np.float32)})) == 0
    other = next(one for one in range(len(shape)) if one != axis)
    assert layers_with_pattern(saved(tmp_path / "d.onnx", [node], {"w": pruned(shape, other)})) == 0


def test_quantized_weights_have_it_too_and_an_option_that_is_off_says_so(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["wide"]),
        helper.make_node("Conv", ["x", "wide"], ["y"]),
    ]
    constants = {"w": pruned((8, 16, 1, 1), 1).astype(np.int8), "s": np.float32(0.1).reshape(())}
    path = saved(tmp_path / "q.onnx", nodes, constants)
    assert unused_pattern(path, Form.FORM_QDQ_SIGNED, SimpleNamespace(sparse_weights=False)) == {
        "sparsity": "layers with the 2:4 pattern: 1, unused with sparse_weights=false"
    }
    assert not unused_pattern(path, Form.FORM_QDQ_SIGNED, SimpleNamespace(sparse_weights=True))
    assert not unused_pattern(path, Form.FORM_QDQ_SIGNED, SimpleNamespace()), "a backend without such an option"
