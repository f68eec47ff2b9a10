"""A module that lives in this process: how `benchmark(model=…)` hands over its own."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench_compressor.plugins import Context, Files, ModelInfo
from pqbench_wire import own_code

REQUIRES = ("torch",)
OWN = True  # a user's module: it is run once while planning


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to configure: the object is what it is."""


def names() -> tuple[str, ...]:
    return ()


def info(name: str, config: Config, files: Files) -> ModelInfo:
    own_code.live(name)
    return ModelInfo(preprocessing=Preprocessing(), classes=0)


def build(name: str, config: Config, files: Files) -> nn.Module:
    """A copy. Tensors that were computed are copied by value: PyTorch refuses to copy what has a gradient's history."""
    live = own_code.live(name)
    layers = live.modules() if isinstance(live, nn.Module) else ()
    held = [value for layer in layers for value in vars(layer).values() if isinstance(value, torch.Tensor)]
    copied: nn.Module = copy.deepcopy(live, {id(one): one.detach().clone() for one in held if not one.is_leaf})
    return copied


def pretrained(name: str, config: Config, files: Files, context: Context) -> nn.Module:
    return build(name, config, files)
