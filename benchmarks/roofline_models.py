"""Models that a runtime should run as fast as it can: all of the time goes into one kind of work."""

from __future__ import annotations

import torch
from torch import nn

CHANNELS, SIDE = 256, 28


def products() -> nn.Module:
    """Eight convolutions 3x3 of 256 channels: many products for each value that is read."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, CHANNELS, 3, padding=1), nn.ReLU()]
    for _ in range(8):
        layers += [nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 10))
