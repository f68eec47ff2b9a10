"""Imagewoof: ten ImageNet dog breeds, in data/imagewoof2, downloaded if absent (github.com/fastai/imagenette)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from pqbench_orchestrator.dataset import Data
from pqbench_orchestrator.datasets import _imagenet_subset

REQUIRES = ()
OUTPUTS = {  # synset -> index of an ImageNet model's output, class name; the thesis swapped 182 and 193
    "n02086240": (155, "Shih-Tzu"),
    "n02087394": (159, "Rhodesian ridgeback"),
    "n02088364": (162, "beagle"),
    "n02089973": (167, "English foxhound"),
    "n02093754": (182, "Border terrier"),
    "n02096294": (193, "Australian terrier"),
    "n02099601": (207, "golden retriever"),
    "n02105641": (229, "Old English sheepdog"),
    "n02111889": (258, "Samoyed"),
    "n02115641": (273, "dingo"),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Where the archive is downloaded from."""

    url: Annotated[str, Field(description="of the archive")] = (
        "https://s3.amazonaws.com/fast-ai-imageclas/imagewoof2.tgz"
    )
    checksum: Annotated[str, Field(description="of the archive")] = "md5:5eaf5bbf4bf16a77c616dc6e8dd5f8e9"


def load(config: Config, root: Path, progress: Callable[[float], None] = lambda _: None) -> Data:
    return _imagenet_subset.load(root, "imagewoof2", config.url, config.checksum, OUTPUTS, progress)
