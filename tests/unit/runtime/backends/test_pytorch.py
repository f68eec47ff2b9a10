"""What PyTorch's profiler says of layers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pqbench_runtime.backends._pytorch import layer_time


@pytest.mark.parametrize(
    ("told", "precision"), [({}, ""), ({"input_dtypes": None}, ""), ({"input_dtypes": ["", "c10::Half"]}, "FP16")]
)
def test_a_layers_precision_is_empty_where_the_profiler_does_not_tell_it(
    told: dict[str, object], precision: str
) -> None:
    event = SimpleNamespace(name="aten::conv2d", input_shapes=[[1, 3, 8, 8]], cpu_children=[], **told)
    found = layer_time(event, seconds=1e-3)
    assert (found.precision, found.type, found.name) == (precision, "conv2d", "conv2d [1, 3, 8, 8]")
