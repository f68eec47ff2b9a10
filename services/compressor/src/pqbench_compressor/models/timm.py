"""All timm classifiers, with the input size and normalisation of their pretrained configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import timm
from pydantic import Field
from torch import nn

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench_compressor.models._weights import fetch_from_hub
from pqbench_compressor.plugins import Context, Files, ModelInfo
from pqbench_wire.catalog import unknown
from pqbench_wire.errors import InvalidInput, Unavailable

REQUIRES = ("torch", "timm")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The classifier's size."""

    classes: Annotated[int, Field(ge=0, le=50_000, description="outputs; 0: as many as the default weights have")] = 0


def names() -> tuple[str, ...]:
    return tuple(timm.list_models())


def info(name: str, config: Config, files: Files) -> ModelInfo:
    if name.partition(".")[0] not in names():
        raise InvalidInput(unknown("model", f"timm/{name}", [f"timm/{n}" for n in names()]))
    wanted = timm.get_pretrained_cfg(name)
    if wanted is None:
        raise InvalidInput(f"timm/{name} has no pretrained configuration and so no known input size")
    channels, height, width = wanted.input_size
    preprocessing = Preprocessing(
        height=height,
        width=width,
        channels=channels,
        resize=round(min(height, width) / wanted.crop_pct),
        interpolation="bicubic" if wanted.interpolation == "bicubic" else "bilinear",
        mean=wanted.mean,
        std=wanted.std,
    )
    return ModelInfo(preprocessing=preprocessing, classes=config.classes or wanted.num_classes)


def build(name: str, config: Config, files: Files) -> nn.Module:
    return timm.create_model(name, pretrained=False, num_classes=info(name, config, files).classes)


def pretrained(name: str, config: Config, files: Files, context: Context) -> nn.Module:
    wanted = timm.get_pretrained_cfg(name)
    classes = info(name, config, files).classes
    if wanted is None or not wanted.hf_hub_id:
        raise Unavailable(f"timm/{name} has no published weights; give weights: none, or a path")
    file = fetch_from_hub(wanted.hf_hub_id, context)
    return timm.create_model(
        name, pretrained=True, num_classes=classes, pretrained_cfg_overlay={"file": str(file), "hf_hub_id": None}
    )
