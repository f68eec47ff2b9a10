"""All torchvision classifiers, with the input size and normalisation of their default weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

import torchvision.models
from pydantic import Field
from torch import nn

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench_compressor.models._attention import with_separate_projections
from pqbench_compressor.models._weights import fetch_state
from pqbench_compressor.plugins import Context, Files, ModelInfo
from pqbench_wire.catalog import unknown
from pqbench_wire.errors import InvalidInput

REQUIRES = ("torch", "torchvision")
IMAGENET_CLASSES = 1000


@dataclass(frozen=True, kw_only=True)
class Config:
    """The classifier's size."""

    classes: Annotated[int, Field(ge=1, le=50_000, description="outputs; default weights have 1000")] = IMAGENET_CLASSES


def names() -> tuple[str, ...]:
    return tuple(torchvision.models.list_models(module=torchvision.models))


def info(name: str, config: Config, files: Files) -> ModelInfo:
    if name not in names():
        raise InvalidInput(unknown("model", f"torchvision/{name}", [f"torchvision/{n}" for n in names()]))
    wanted = torchvision.models.get_model_weights(name)["DEFAULT"].transforms()
    side = wanted.crop_size[0]
    preprocessing = Preprocessing(
        height=side,
        width=side,
        channels=3,
        resize=wanted.resize_size[0],
        interpolation=wanted.interpolation.value,
        mean=wanted.mean,
        std=wanted.std,
    )
    return ModelInfo(preprocessing=preprocessing, classes=config.classes)


def build(name: str, config: Config, files: Files) -> nn.Module:
    extra: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        # Without auxiliary training heads, which are not deployed, and without the slow random initialisation.
        # The pretrained weights expect inputs scaled to [-1, 1]: `transform_input` converts ImageNet's normalisation.
        extra = {"aux_logits": False, "init_weights": False, "transform_input": True}
    if name.startswith("vit_"):
        extra = {"image_size": info(name, config, files).preprocessing.height}
    return with_separate_projections(
        torchvision.models.get_model(name, weights=None, num_classes=config.classes, **extra)
    )


def pretrained(name: str, config: Config, files: Files, context: Context) -> nn.Module:
    if config.classes != IMAGENET_CLASSES:
        raise InvalidInput(
            f"torchvision/{name}: default weights have {IMAGENET_CLASSES} classes, not {config.classes}; "
            "give weights: none, or a path"
        )
    state = fetch_state(torchvision.models.get_model_weights(name)["DEFAULT"].url, context)
    module = build(name, config, files)
    module.load_state_dict({_renamed(key): value for key, value in state.items() if not key.lower().startswith("aux")})
    return module


def _renamed(key: str) -> str:
    """A key of a weights file as the module names it: DenseNet's files have "norm.1" for "norm1"."""
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d\.)", r"\1\2", key)
