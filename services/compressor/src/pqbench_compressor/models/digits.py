"""Small residual network for scikit-learn's handwritten digits, trained on their training split.

Three basic blocks of 32, 64 and 128 channels with 1x1 projections as shortcuts where sizes change
(He et al., arXiv 1512.03385, option B), for images of 16x16 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench_compressor.plugins import Context, Files, ModelInfo
from pqbench_compressor.training import Options, train
from pqbench_wire.catalog import unknown
from pqbench_wire.errors import InvalidInput

REQUIRES = ("torch",)
NAMES = ("resnet",)


@dataclass(frozen=True, kw_only=True)
class Config:
    """How the default weights are trained."""

    epochs: Annotated[int, Field(ge=1, le=1000, description="passes over the training split")] = 8
    learning_rate: Annotated[float, Field(gt=0, description="peak of the one-cycle schedule")] = 0.1


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] to [N, C', H', W']."""
        out = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def names() -> tuple[str, ...]:
    return NAMES


def info(name: str, config: Config, files: Files) -> ModelInfo:
    if name not in NAMES:
        raise InvalidInput(unknown("model", f"digits/{name}", [f"digits/{n}" for n in NAMES]))
    preprocessing = Preprocessing(height=16, width=16, channels=1, interpolation="bilinear", mean=[0.5], std=[0.5])
    return ModelInfo(preprocessing=preprocessing, classes=10, trains=True)


def build(name: str, config: Config, files: Files) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, 1, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        Block(32, 32, 1),
        Block(32, 64, 2),
        Block(64, 128, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def pretrained(name: str, config: Config, files: Files, context: Context) -> nn.Module:
    module = build(name, config, files)
    options = Options(epochs=config.epochs, learning_rate=config.learning_rate)
    train(module, context.training, options, seed=context.seed, report=context.report)
    return module
