"""SimpleNet v1, 5M parameters, stride mode 1, for ImageNet (Hasanpour et al., arXiv 1608.06037).

Thirteen plain convolutions with batch normalisation, global max pooling, a linear classifier.
State-dict names and default weights are those of Coderx7/SimpleNet_Pytorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import nn

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench_compressor.models._weights import fetch_state
from pqbench_compressor.plugins import Context, Files, ModelInfo
from pqbench_wire.catalog import unknown
from pqbench_wire.errors import InvalidInput

REQUIRES = ("torch",)
NAMES = ("v1_5m_m1",)
URL = "https://github.com/Coderx7/SimpleNet_Pytorch/releases/download/v1.0.0/simplenetv1_5m_m1-36c4ca4d.pth"
# (channels, kernel, stride); "pool" halves the resolution.
LAYERS = (
    (64, 3, 2), (128, 3, 2), (128, 3, 2), (128, 3, 1), (128, 3, 1), (128, 3, 1), "pool",
    (256, 3, 1), (256, 3, 1), (256, 3, 1), (512, 3, 1), "pool",
    (2048, 1, 1), (256, 1, 1), (256, 3, 1),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config:
    """The classifier's size."""

    classes: Annotated[int, Field(ge=1, le=50_000, description="outputs; default weights have 1000")] = 1000


class SimpleNet(nn.Module):
    """Convolutions, global max pooling, a linear classifier."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*_layers())
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.classifier = nn.Linear(LAYERS[-1][0], classes)

    def forward(self, x):  # type: ignore[no-untyped-def]
        """Images [N, 3, H, W] to logits [N, classes]."""
        return self.classifier(self.pool(self.features(x)).flatten(1))


def _layers() -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels = 3
    for layer in LAYERS:
        if isinstance(layer, str):
            layers += [nn.MaxPool2d(2), nn.Dropout2d(0.0)]
            continue
        width, kernel, stride = layer
        convolution = nn.Conv2d(channels, width, kernel, stride, kernel // 2)
        layers += [convolution, nn.BatchNorm2d(width, momentum=0.05), nn.ReLU(inplace=True), nn.Dropout2d(0.0)]
        channels = width
    return layers


def names() -> tuple[str, ...]:
    return NAMES


def info(name: str, config: Config, files: Files) -> ModelInfo:
    if name not in NAMES:
        raise InvalidInput(unknown("model", f"simplenet/{name}", [f"simplenet/{n}" for n in NAMES]))
    preprocessing = Preprocessing(
        height=224, width=224, channels=3, resize=256, interpolation="bicubic", mean=[0.485, 0.456, 0.406],
        std=[0.229, 0.224, 0.225],
    )  # fmt: skip
    return ModelInfo(preprocessing=preprocessing, classes=config.classes)


def build(name: str, config: Config, files: Files) -> nn.Module:
    return SimpleNet(config.classes)


def pretrained(name: str, config: Config, files: Files, context: Context) -> nn.Module:
    module = build(name, config, files)
    module.load_state_dict(fetch_state(URL, context))
    return module
