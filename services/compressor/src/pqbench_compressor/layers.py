"""The kinds of layers that compression works on."""

from __future__ import annotations

from torch import nn

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d  # their weights have the inputs first
OutputsFirst = Convolution | nn.Linear  # their weights have the outputs first: one scale for each
Layer = OutputsFirst | Transposed
