"""CIFAR ResNet-20/32/44/56 with parameter-free shortcuts (He et al., arXiv 1512.03385, section 4.2).

State-dict names and default weights are those of akamaster/pytorch_resnet_cifar10.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench_compressor.models._weights import fetch_state
from pqbench_compressor.plugins import Context, Files, ModelInfo
from pqbench_wire.catalog import unknown
from pqbench_wire.errors import InvalidInput

REQUIRES = ("torch",)
BLOCKS = {"resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9}  # residual blocks in each of the three stages
SOURCE = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models"
# The last part of each name is the beginning of the file's SHA-256.
FILES = {
    "resnet20": "resnet20-12fca82f.th",
    "resnet32": "resnet32-d509ac18.th",
    "resnet44": "resnet44-014dd654.th",
    "resnet56": "resnet56-4bfd9763.th",
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to configure: the name determines the architecture."""


class Shortcut(nn.Module):
    """A shortcut without parameters ("option A"): every second pixel, with zero channels added on both sides."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] to [N, C + 2 padding, H/2, W/2]."""
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))


class Block(nn.Module):
    """Two 3x3 convolutions and a parameter-free shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if inputs == outputs else Shortcut((outputs - inputs) // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] to [N, C', H', W']."""
        out = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """A 3x3 stem, three stages of n blocks, global average pooling, a linear classifier."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, 1, blocks)
        self.layer2 = self._stage(16, 32, 2, blocks)
        self.layer3 = self._stage(32, 64, 2, blocks)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _stage(inputs: int, outputs: int, stride: int, blocks: int) -> nn.Sequential:
        first = Block(inputs, outputs, stride)
        return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images [N, 3, 32, 32] to logits [N, 10]."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))

    def layers_to_keep(self) -> list[nn.Module]:
        """Layers whose width the parameter-free shortcuts fix."""
        return [self.conv1, *(m.conv2 for m in self.modules() if isinstance(m, Block))]


def names() -> tuple[str, ...]:
    return tuple(BLOCKS)


def info(name: str, config: Config, files: Files) -> ModelInfo:
    if name not in BLOCKS:
        raise InvalidInput(unknown("model", f"cifar/{name}", [f"cifar/{n}" for n in BLOCKS]))
    preprocessing = Preprocessing(
        height=32, width=32, channels=3, interpolation="bilinear", mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]
    )
    return ModelInfo(preprocessing=preprocessing, classes=10)


def build(name: str, config: Config, files: Files) -> nn.Module:
    return ResNet(BLOCKS[name])


def pretrained(name: str, config: Config, files: Files, context: Context) -> nn.Module:
    module = build(name, config, files)
    module.load_state_dict(fetch_state(f"{SOURCE}/{FILES[name]}", context))
    return module
