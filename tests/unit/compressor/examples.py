"""Small models and images that the tests of the compressor share."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench_compressor import modules, statistics
from pqbench_compressor.plugins import MODELS, PRUNERS, Context, Files, Training

P = Preprocessing(height=8, width=8, channels=3, interpolation="bilinear", mean=[0.5] * 3, std=[0.25] * 3)


class Residual(nn.Module):
    """A convolution, two branches that are added, a concatenation, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.first, self.second = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1)
        self.last = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        y = torch.relu(self.first(x) + x)
        return self.last(torch.cat((y, self.second(y)), 1).mean((2, 3)))


REMOVAL = PRUNERS.load("removal")


def build(family: str, name: str) -> tuple[nn.Module, Context]:
    """A model with random weights that are nowhere all zero, and noise for it."""
    plugin = MODELS.load(family)
    info = plugin.info(name, plugin.Config(), Files())
    torch.manual_seed(0)
    module = plugin.build(name, plugin.Config(), Files()).eval()
    for layer in module.modules():
        if isinstance(layer, nn.Linear) and not layer.weight.any():
            nn.init.normal_(layer.weight, std=0.02)
    p = info.preprocessing
    images = np.random.default_rng(0).integers(0, 256, (8, p.height, p.width, p.channels), dtype=np.uint8)
    data = Training(images=images, labels=np.arange(8) % info.classes, preprocessing=p)
    context = Context(
        seed=0, report=lambda *_: None, classes=info.classes, images=data.inputs(slice(2)), training_split=data
    )
    return module, context


def macs(module: nn.Module, context: Context) -> int:
    return statistics.of_module(module, context.example, 0).macs


PREPROCESSING = Preprocessing(height=32, width=32, channels=3, mean=[0.5] * 3, std=[0.25] * 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
DATA = Training(images=IMAGES, labels=np.arange(24) % 10, preprocessing=PREPROCESSING)
TWO = DATA.inputs(slice(2))
CONTEXT = Context(seed=0, report=lambda *_: None, classes=10, images=TWO, training_split=DATA)


def case(folder: Path, file: str, function: str) -> nn.Module:
    spec = importlib.util.spec_from_file_location(file, folder / "modules" / f"{file}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return modules.plain(getattr(module, function)(), TWO[:1], function)


def prune(module: nn.Module, name: str, config: str) -> Any:
    return PRUNERS.load(name).prune(module, PRUNERS.configure(name, config), CONTEXT)


def counted(module: nn.Module) -> tuple[int, int]:
    found = statistics.of_module(module, TWO, 0)
    return found.macs, found.parameters


class Kinds(nn.Module):
    """One of each kind of layer that a classifier of pictures can have, two of them with one weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.c3, self.up = nn.Conv3d(1, 16, (3, 4, 4), (1, 4, 4)), nn.ConvTranspose2d(16, 24, 2, 2)
        self.c1, self.a, self.b = nn.Conv1d(24, 16, 4, 4), nn.Linear(16, 16), nn.Linear(16, 16)
        self.b.weight = self.a.weight
        self.f = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> Any:
        y = functional.relu(self.up(functional.relu(self.c3(x[:, None])).squeeze(2)))
        y = functional.relu(self.c1(y.flatten(2))).mean(2)
        return self.f(functional.relu(self.b(functional.relu(self.a(y)))))


def network(plugin: str = "digits", name: str = "resnet") -> nn.Module:
    torch.manual_seed(0)
    return MODELS.load(plugin).build(name, None, Files()).eval()


def quiet(stage: str, fraction: float, message: str) -> None:
    """Reports to nobody."""
