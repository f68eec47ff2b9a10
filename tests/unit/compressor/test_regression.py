"""Ridge regression with the pull chosen on images that it was not fitted to."""

from __future__ import annotations

import pytest
import torch

from pqbench_compressor.regression import RIDGES, USUAL, Regression
from pqbench_compressor.sampling import ENOUGH, Grid, grid


def regression(images: int, noise: float) -> tuple[Regression, torch.Tensor]:
    """Of two outputs on twenty inputs, one position an image."""
    torch.manual_seed(0)
    inputs, weights = torch.randn(1, 20, images), torch.randn(1, 2, 20)
    found = Regression(1, 20, 2, has_offset=True)
    found.add(inputs, weights @ inputs + 3.0 + noise * torch.randn(1, 2, images), images)
    return found, weights.double()


def test_without_noise_the_change_is_found_and_with_few_noisy_images_it_is_held_back() -> None:
    exact, weights = regression(200, 0.0)
    assert exact.best_ridge() == RIDGES[0]
    change = exact.solve(RIDGES[0], None)
    torch.testing.assert_close(change.weights, weights, atol=0.01, rtol=0.01)
    torch.testing.assert_close(change.offset, torch.full((1, 2), 3.0, dtype=torch.float64), atol=0.02, rtol=0.01)
    assert regression(24, 30.0)[0].best_ridge() >= 1.0


def test_too_few_images_to_choose_take_the_usual_ridge() -> None:
    found = Regression(1, 2, 1, has_offset=False)
    found.add(torch.randn(1, 2, 3), torch.randn(1, 1, 3), 3)
    assert found.best_ridge() == USUAL


def test_weights_outside_the_mask_do_not_change() -> None:
    found, _ = regression(200, 0.0)
    mask = torch.arange(40).reshape(1, 2, 20) % 3 != 0
    assert bool((found.solve(1e-3, mask).weights[~mask] == 0).all())


@pytest.mark.parametrize(("stride", "padding", "kernel"), [(1, 1, 3), (2, 1, 3), (2, 0, 1), (1, 2, 5)])
def test_columns_on_a_grid_give_the_outputs_on_it(stride: int, padding: int, kernel: int) -> None:
    torch.manual_seed(0)
    x, layer = torch.randn(3, 4, 13, 11), torch.nn.Conv2d(4, 5, kernel, stride, padding, bias=False)
    outputs, chosen = layer(x), Grid(row=1, column=2, step=3)
    padded = torch.nn.functional.pad(x, (padding,) * 4)
    columns = chosen.columns(padded, (kernel, kernel), (stride, stride), (1, 1))
    torch.testing.assert_close(layer.weight.flatten(1) @ columns, chosen.of(outputs).transpose(0, 1).flatten(1))


def test_a_grid_leaves_enough_positions() -> None:
    chance = torch.Generator().manual_seed(0)
    for height, images, inputs in ((112, 448, 27), (56, 448, 144), (7, 448, 960), (7, 100_000, 9)):
        found = grid(torch.Size((32, 8, height, height)), images, inputs, chance)
        left = (height // found.step) ** 2 * images
        assert found.step == 1 or left >= 0.7 * ENOUGH * inputs
        assert max(found.row, found.column) < found.step <= height
