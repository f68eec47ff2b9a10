"""The layer classes that compression works on, by the layout of their weights."""

from __future__ import annotations

from torch import nn

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d  # weight [inputs, outputs / groups, …]
OutputsFirst = Convolution | nn.Linear  # weight [outputs, inputs / groups, …]
Layer = OutputsFirst | Transposed
