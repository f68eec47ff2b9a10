"""Imagenette: ten easy ImageNet classes, in data/imagenette2, downloaded if absent (github.com/fastai/imagenette)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from pqbench_orchestrator.dataset import Data
from pqbench_orchestrator.datasets import _imagenet_subset

REQUIRES = ()
OUTPUTS = {  # synset -> index of an ImageNet model's output, class name
    "n01440764": (0, "tench"),
    "n02102040": (217, "English springer"),
    "n02979186": (482, "cassette player"),
    "n03000684": (491, "chain saw"),
    "n03028079": (497, "church"),
    "n03394916": (566, "French horn"),
    "n03417042": (569, "garbage truck"),
    "n03425413": (571, "gas pump"),
    "n03445777": (574, "golf ball"),
    "n03888257": (701, "parachute"),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Where the archive is downloaded from."""

    url: Annotated[str, Field(description="of the archive")] = (
        "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2.tgz"
    )
    checksum: Annotated[str, Field(description="of the archive")] = "md5:fe2fc210e6bb7c5664d602c3cd71e612"


def load(config: Config, root: Path, progress: Callable[[float], None] = lambda _: None) -> Data:
    return _imagenet_subset.load(root, "imagenette2", config.url, config.checksum, OUTPUTS, progress)
