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
    live = own_code.live(name)
    for layer in live.modules() if isinstance(live, nn.Module) else ():
        for hook in layer._forward_pre_hooks.values():  # they make a weight of others before each call
            derived = getattr(hook, "name", None) or getattr(hook, "_tensor_name", "")
            if derived and isinstance(made := getattr(layer, derived, None), torch.Tensor) and not made.is_leaf:
                setattr(layer, derived, made.detach())  # else it cannot be copied
    module: nn.Module = copy.deepcopy(live)
    return module.cpu().eval()


def pretrained(name: str, config: Config, files: Files, context: Context) -> nn.Module:
    return build(name, config, files)
