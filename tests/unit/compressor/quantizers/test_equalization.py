"""Cross-layer equalization: the same outputs, from weights with equal ranges."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from pqbench_compressor import export
from pqbench_compressor.quantizers._equalization import equalize

INPUTS = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)


class Chain(nn.Module):
    """Convolutions, one of them in groups, joined by what scales with its inputs, or by what is given."""

    def __init__(self, between: Callable[[torch.Tensor], torch.Tensor] = torch.relu) -> None:
        super().__init__()
        self.between = between
        self.first, self.grouped = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=4, padding=1)
        self.depthwise, self.last = nn.Conv2d(16, 32, 3, groups=16), nn.Conv2d(32, 8, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.between(self.first(x))
        x = torch.relu(self.grouped(x) + x)  # the two convolutions make one stream
        x = nn.functional.max_pool2d(x, 2)
        return self.last(nn.functional.leaky_relu(self.depthwise(x)))


def exported(module: nn.Module) -> bytes:
    torch.manual_seed(0)
    for parameter in module.parameters():  # channels of very unequal ranges
        nn.init.normal_(parameter)
        shape = [-1] + [1] * (parameter.ndim - 1)
        parameter.data *= torch.logspace(-2, 2, len(parameter))[torch.randperm(len(parameter))].reshape(shape)
    return export.to_onnx(module.eval(), INPUTS[:2])


def weights(model: bytes) -> list[np.ndarray]:
    graph = onnx.load_from_string(model).graph
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    return [constants[node.input[1]] for node in graph.node if node.op_type == "Conv"]


def test_outputs_stay_and_channels_have_equal_ranges_on_both_sides() -> None:
    before = exported(Chain())
    after, count = equalize(before)
    assert count == 2
    reference = export.run_onnx(before, INPUTS)
    assert export.sqnr(reference, export.run_onnx(after, INPUTS)) > 90
    first, grouped, depthwise, last = weights(after)
    outputs = np.maximum(np.abs(first).max((1, 2, 3)), np.abs(grouped).max((1, 2, 3)))
    inputs = np.maximum(
        np.abs(grouped).reshape(4, 4, 4, 9).max((1, 3)).ravel(), np.abs(depthwise).reshape(16, -1).max(1)
    )
    np.testing.assert_allclose(outputs, inputs, rtol=0.05)
    np.testing.assert_allclose(np.abs(depthwise).max((1, 2, 3)), np.abs(last).max((0, 2, 3)), rtol=0.05)


@pytest.mark.parametrize(
    "between",
    [nn.ReLU6(), torch.sigmoid, lambda x: x + 1.0, lambda x: nn.functional.pad(x, (1, 1, 1, 1), value=1.0)],
    ids=["clip", "sigmoid", "constant", "padded"],
)
def test_what_does_not_scale_with_its_inputs_is_left_alone(between: Callable[[torch.Tensor], torch.Tensor]) -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(between(self.first(x)))

    before = exported(One())
    after, count = equalize(before)
    assert count == 0 and np.array_equal(export.run_onnx(after, INPUTS), export.run_onnx(before, INPUTS))


def test_an_output_of_the_model_and_a_dead_channel_stay() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = torch.relu(self.first(x))
            return x, self.last(x)

    assert equalize(exported(Two()))[1] == 0
    chain = Chain()
    before = exported(chain)
    with torch.no_grad():
        chain.last.weight[:, 3] = 0
    after, _ = equalize(export.to_onnx(chain, INPUTS[:2]))
    assert all(np.isfinite(one).all() for one in weights(after))
    np.testing.assert_array_equal(np.abs(weights(after)[3][:, 3]).max(), 0)
    assert before != after
