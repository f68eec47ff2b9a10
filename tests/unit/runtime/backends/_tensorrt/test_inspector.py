"""Precisions read from the inspector's JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pqbench_runtime.backends._tensorrt.inspector import layers_of


@pytest.mark.parametrize(
    ("inputs", "more", "precision"),
    [
        (["Half"], {"Weights": {"Type": "Int4", "Count": 4096}}, "INT4"),
        (["Half", "Int4"], {}, "INT4"),
        (["FP16", "Int8"], {}, "INT8"),
        (["Half"], {"Weights": {"Type": "Half", "Count": 8}}, "FP16"),
        (["Float"], {"Weights": {"Type": "Float", "Count": 8}}, "FP32"),
        (["Half"], {"TacticName": "sm80_xmma_fprop_implicit_gemm_i8i8_i8i32"}, "INT8"),
        (["Bool"], {}, "unknown"),
    ],
)
def test_a_products_precision_is_the_narrowest_of_its_inputs_and_weights(
    inputs: list[str], more: dict[str, Any], precision: str
) -> None:
    tensors = [{"Name": str(index), "Datatype": kind} for index, kind in enumerate(inputs)]
    layer = {"Name": "fc", "LayerType": "gemm", "Inputs": tensors, "Outputs": [{"Name": "y", "Datatype": "Half"}]}
    (found,) = layers_of(json.dumps({"Layers": [layer | more]}))
    assert found.precision == precision and found.compute
