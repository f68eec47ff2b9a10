"""A PyTorch module object of the calling Python process, as given to `benchmark(model=…)`."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench_compressor.plugins import Context, Files, ModelInfo
from pqbench_wire.shared import own_code

REQUIRES = ("torch",)
OWN = True  # a user's module: it is run while planning, to check it


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to configure: the object is used as it is."""


def names() -> tuple[str, ...]:
    return ()


def info(name: str, config: Config, files: Files) -> ModelInfo:
    own_code.live(name)
    return ModelInfo(preprocessing=Preprocessing(), classes=0)


def build(name: str, config: Config, files: Files) -> nn.Module:
    """A copy of the object, with its weights.

    Tensors with a gradient history, which PyTorch refuses to deep-copy, are detached and cloned.
    """
    live = own_code.live(name)
    layers = live.modules() if isinstance(live, nn.Module) else ()
    held = [value for layer in layers for value in vars(layer).values() if isinstance(value, torch.Tensor)]
    copied: nn.Module = copy.deepcopy(live, {id(one): one.detach().clone() for one in held if not one.is_leaf})
    return copied


def pretrained(name: str, config: Config, files: Files, context: Context) -> nn.Module:
    return build(name, config, files)
