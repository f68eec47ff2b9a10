"""Ridge regression of a layer's change from sums over images, with the pull chosen on images that it was not fitted to.

With few images, or few positions as after pooling, least squares reproduce the images it has seen and little else. The
pull towards no change is therefore chosen for each layer: it is fitted to three quarters of the images with each of
RIDGES, and the one with the least error on the last quarter is used on all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # shares of the inputs' mean variance
USUAL = 1e-3  # where there are too few images to choose
HELD_OUT = 4  # one in so many images
LARGEST = 8192  # inputs: more would take over 2 GB and minutes


@dataclass(frozen=True)
class Change:
    """What to add to the weights, [groups, outputs, inputs of one], and to the offset, [groups, outputs]."""

    weights: torch.Tensor
    offset: torch.Tensor


class Regression:
    """The regression of what a layer's outputs lack on its inputs; layers in groups have one for each group."""

    def __init__(self, groups: int, inputs: int, outputs: int, has_offset: bool) -> None:
        self._has_offset = has_offset
        self._fitted, self._held_out = (_Moments(groups, inputs, outputs) for _ in range(2))

    def add(self, inputs: torch.Tensor, missing: torch.Tensor, images: int) -> None:
        """Add a batch of so many images: inputs [groups, inputs of one, positions], missing [groups, outputs, …].

        Positions are ordered by images.
        """
        position = inputs.shape[2] // images * (images - images // HELD_OUT)
        self._fitted.add(inputs[:, :, :position], missing[:, :, :position])
        self._held_out.add(inputs[:, :, position:], missing[:, :, position:])

    def best_ridge(self) -> float:
        """The ridge with the least squared error on the images held out."""
        if not self._held_out.count:
            return USUAL
        errors = [self._held_out.error(self._fitted.solve(ridge, self._has_offset)) for ridge in RIDGES]
        return RIDGES[min(range(len(RIDGES)), key=errors.__getitem__)]

    def solve(self, ridge: float, mask: torch.Tensor | None) -> Change:
        """The change with the least error on all images. Weights outside `mask` [groups, outputs, inputs] stay."""
        return (self._fitted + self._held_out).solve(ridge, self._has_offset, mask)


class _Moments:
    """Sums over examples and positions, of inputs x and missing outputs r."""

    def __init__(self, groups: int, inputs: int, outputs: int) -> None:
        self.count = 0
        self.xx = torch.zeros(groups, inputs, inputs, dtype=torch.float64)
        self.xr = torch.zeros(groups, inputs, outputs, dtype=torch.float64)
        self.x = torch.zeros(groups, inputs, dtype=torch.float64)
        self.r = torch.zeros(groups, outputs, dtype=torch.float64)

    def add(self, inputs: torch.Tensor, missing: torch.Tensor) -> None:
        self.count += inputs.shape[2]
        self.xx += torch.bmm(inputs, inputs.transpose(1, 2)).double()
        self.xr += torch.bmm(inputs, missing.transpose(1, 2)).double()
        self.x += inputs.sum(2).double()
        self.r += missing.sum(2).double()

    def __add__(self, other: _Moments) -> _Moments:
        total = _Moments(*self.xr.shape)
        total.count = self.count + other.count
        for name in ("xx", "xr", "x", "r"):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        return total

    def solve(self, ridge: float, has_offset: bool, mask: torch.Tensor | None = None) -> Change:
        x, r = self.x / self.count, self.r / self.count
        xx, xr = self.xx / self.count, self.xr / self.count
        if has_offset:
            xx = xx - x[:, :, None] * x[:, None, :]
            xr = xr - x[:, :, None] * r[:, None, :]
        pull = ridge * xx.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
        system = xx + pull[:, None, None] * torch.eye(x.shape[1], dtype=torch.float64)
        weights = torch.linalg.solve(system, xr).transpose(1, 2) if mask is None else _rowwise(system, xr, mask)
        offset = r - (weights * x[:, None, :]).sum(2) if has_offset else torch.zeros_like(r)
        return Change(weights, offset)

    def error(self, change: Change) -> float:
        """The squared error that a change leaves, less that of no change, summed."""
        weights, offset = change.weights, change.offset
        product = ((weights @ self.xx) * weights).sum() - 2 * (weights * self.xr.transpose(1, 2)).sum()
        along = offset * ((weights * self.x[:, None, :]).sum(2) - self.r)
        return float(product + 2 * along.sum() + self.count * offset.square().sum())


def _rowwise(system: torch.Tensor, right: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The solution in which the inputs outside each output's `mask` have no weight."""
    solved = torch.zeros(mask.shape, dtype=torch.float64)
    for group, outputs in enumerate(mask):
        for row, own in enumerate(outputs):
            if own.any():
                part = system[group][own][:, own]
                solved[group, row, own] = torch.linalg.solve(part, right[group, own, row])
    return solved
