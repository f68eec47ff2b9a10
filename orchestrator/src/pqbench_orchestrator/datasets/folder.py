"""A folder of images with one sub-folder per class, and an optional map from classes to a model's outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from pqbench_orchestrator.dataset import Data, PathText
from pqbench_orchestrator.datasets._files import check_not_splits, class_folders, sub_folders
from pqbench_wire.errors import InvalidInput

REQUIRES = ()


@dataclass(frozen=True, kw_only=True)
class Config:
    """Where the images are, and which outputs of a model their classes are."""

    test: Annotated[PathText, Field(min_length=1, description="folder with one sub-folder per class, for scoring")]
    train: Annotated[PathText, Field(description="the same, for calibration and training")] = ""
    outputs: Annotated[
        dict[str, Annotated[int, Field(ge=0)]] | None,
        Field(description="class -> the model's output; given: scored on these outputs only"),
    ] = None


def load(config: Config, root: Path, progress: Callable[[float], None] = lambda _: None) -> Data:
    classes = sub_folders(Path(config.test))
    check_not_splits(Path(config.test), classes)
    splits = {"test": class_folders(Path(config.test), classes)}
    if config.train:
        if others := sorted(set(sub_folders(Path(config.train))) ^ set(classes)):
            raise InvalidInput(f"folder: {config.train} and {config.test} differ in classes: {', '.join(others)}")
        splits["train"] = class_folders(Path(config.train), classes)
    return Data(splits=splits, classes=classes, outputs=_outputs(config, classes))  # type: ignore[arg-type]


def _outputs(config: Config, classes: list[str]) -> tuple[int, ...] | None:
    if config.outputs is None:
        return None
    if missing := [name for name in classes if name not in config.outputs]:
        raise InvalidInput(f"folder: outputs has no entry for class {missing[0]!r}")
    return tuple(config.outputs[name] for name in classes)
