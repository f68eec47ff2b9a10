"""What a model can be fed with, and what is beyond the bounds."""

from __future__ import annotations

from typing import Any

import pytest

from pqbench.common.v1.common_pb2 import Input, Preprocessing
from pqbench_wire.errors import InvalidInput, TooLarge
from pqbench_wire.shared.inputs import MAX_VALUES, check_preprocessing

GOOD: dict[str, Any] = {"height": 8, "width": 8, "channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3}


def test_what_models_take_passes() -> None:
    check_preprocessing(Preprocessing(**GOOD))
    check_preprocessing(Preprocessing(inputs=[Input(name="tokens", dtype="int64", shape=[128])]))


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        ({"height": 0}, InvalidInput, "needs height"),
        ({"height": 12_000, "width": 12_000}, TooLarge, f"at most {MAX_VALUES} values"),
        ({"resize": 1_000_000}, TooLarge, "a resize of"),
        ({"mean": [0.5]}, InvalidInput, "1 mean and 3 std values"),
        ({"std": [0.25, 0.0, 0.25]}, InvalidInput, "std above 0"),
        ({"mean": [float("nan")] * 3}, InvalidInput, "must be finite"),
        ({"interpolation": "area"}, InvalidInput, "known: bilinear, bicubic"),
        ({"inputs": [Input(name="a", dtype="object", shape=[1])]}, InvalidInput, "not a numeric dtype"),
        ({"inputs": [Input(name="a", dtype="float32", shape=[1 << 20, 1 << 20])]}, TooLarge, "values for one example"),
        ({"inputs": [Input(name="a", dtype="int8"), Input(name="a", dtype="int8")]}, InvalidInput, "must be unique"),
        ({"inputs": [Input(name=str(n), dtype="int8") for n in range(65)]}, TooLarge, "at most 64"),
    ],
)
def test_what_no_model_takes_is_refused(change: dict[str, Any], error: type[InvalidInput], reason: str) -> None:
    with pytest.raises(error, match=reason):
        check_preprocessing(Preprocessing(**GOOD | change))
