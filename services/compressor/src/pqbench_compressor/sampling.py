"""A sample of the positions at which a convolution is applied: neighbours say nearly the same, and cost as much."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

ENOUGH = 500  # positions for each input of an output


@dataclass(frozen=True)
class Grid:
    """Every so manieth row and column of a convolution's output, from a random one on."""

    row: int
    column: int
    step: int

    def of(self, outputs: torch.Tensor) -> torch.Tensor:
        """The positions of outputs [N, C, H, W] that lie on the grid."""
        return outputs[..., self.row :: self.step, self.column :: self.step]

    def columns(
        self, padded: torch.Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
    ) -> torch.Tensor:
        """What the outputs on the grid see of padded inputs [N, C, H, W]: [C x taps, images and positions]."""
        part = padded[..., self.row * stride[0] :, self.column * stride[1] :]
        strides = (stride[0] * self.step, stride[1] * self.step)
        unfolded = functional.unfold(part, kernel, dilation=dilation, stride=strides)
        return unfolded.transpose(0, 1).flatten(1)


def grid(outputs: torch.Size, images: int, inputs: int, generator: torch.Generator) -> Grid:
    """The grid for a batch's outputs [N, C, H, W], of `images` in all, that leaves ENOUGH positions for each input."""
    height, width = outputs[-2:]
    positions = height * width * images
    step = max(1, min(height, width, math.isqrt(positions // (ENOUGH * inputs))))
    row, column = (int(torch.randint(step, (), generator=generator)) for _ in range(2))
    return Grid(row, column, step)
