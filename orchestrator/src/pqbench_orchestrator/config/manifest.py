"""The manifest: WHAT to measure."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, model_validator

from pqbench_orchestrator.config.recipes import WITHOUT_METHOD, Recipe
from pqbench_orchestrator.config.strict import Name, Strict
from pqbench_orchestrator.config.tensorrt_images import Version
from pqbench_wire.catalog import unknown
from pqbench_wire.client import STALLED_AFTER

NUMBERS = ("batch_sizes", "concurrency")


class Input(Strict):
    """How images become a model's input, in place of what its plug-in says; a user's own code or ONNX file needs it.

    Sizes are in pixels; `resize` is the shorter side before the centre crop (0: resize to height x width). `mean` and
    `std` are for values in [0, 1], one for each channel or one for all.
    """

    height: Annotated[int, Field(ge=1, le=8192)]
    width: Annotated[int, Field(ge=1, le=8192)]
    channels: Literal[1, 3] = 3
    resize: Annotated[int, Field(ge=0, le=8192)] = 0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @model_validator(mode="after")
    def _per_channel(self) -> Input:
        if {len(self.mean), len(self.std)} - {self.channels, 1} or 0 in self.std:
            raise ValueError(f"mean and std need 1 or {self.channels} values each; std must not contain 0")
        return self


class Tensor(Strict):
    """One input of a model that takes no image."""

    dtype: Literal["float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"] = "float32"
    shape: tuple[Annotated[int, Field(ge=1, le=2**31)], ...] = ()  # without the batch axis


def _names_a_model(name: str) -> str:
    if not name.strip("/") or name.endswith("/"):
        raise ValueError(f"a model is family/name, file.py:function or file.onnx, got {name[:60]!r}")
    return name


class Model(Strict):
    """A model: family/name, path/to/file.py:function or path/to/file.onnx."""

    model: Annotated[str, AfterValidator(_names_a_model)]
    weights: Annotated[str, Field(min_length=1)] = "default"  # default, none, or a path to safetensors or .pth
    weights_key: str = ""  # the key of the state dict to load, where the file holds several
    name: Name | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    preprocessing: Input | None = None
    # For a model that takes no image: its inputs by name, in the order of its arguments.
    inputs: dict[Name, Tensor] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_kind(self) -> Model:
        if self.preprocessing and self.inputs:
            raise ValueError("give preprocessing, for an image, or inputs; not both")
        if self.model.endswith(".py"):
            raise ValueError(f"name the function too, that makes the model: {self.model}:function")
        return self

    @property
    def label(self) -> str:
        """The model's name in tables, unique in the manifest."""
        return (
            self.name or Path(self.model).name
            if self.is_file
            else self.name or self.model.partition("/")[2] or self.model
        )

    @property
    def definition(self) -> str:
        """What the manifest says of the model, without folders, which differ between machines."""
        given = self.model_dump(mode="json", exclude_defaults=True, exclude={"name", "model", "weights"})
        weights = "" if self.weights == "default" else Path(self.weights).name
        name = Path(self.model).name if self.is_file else self.model
        return " ".join(filter(None, (name, weights, json.dumps(given, sort_keys=True) if given else "")))

    @property
    def is_file(self) -> bool:
        """Whether the model is in the user's own file: ONNX, or a function in a Python file."""
        return self.model.endswith(".onnx") or ".py:" in self.model


class Dataset(Strict):
    """A dataset plug-in, or path/to/file.py:function, and its configuration."""

    dataset: Annotated[str, Field(min_length=1)]
    name: Name | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    test_images: Annotated[int | None, Field(ge=2)] = None  # size of a subset drawn with the seed; default: all
    train_images: Annotated[int | None, Field(ge=2)] = None  # likewise

    @property
    def label(self) -> str:
        """The dataset's name in tables, unique in the manifest."""
        return self.name or (Path(self.dataset).name if self.is_own else self.dataset)

    @property
    def is_own(self) -> bool:
        """Whether the dataset is a function in the user's own file."""
        return ".py:" in self.dataset


class Target(Strict):
    """A runtime backend with its options, and perhaps the container that it runs in; an inventory may override that."""

    name: Name
    backend: Annotated[str, Field(min_length=1)]
    options: dict[str, Any] = Field(default_factory=dict)
    image: str = ""  # container image of the runtime
    tensorrt: Version = ""  # or the TensorRT version that the image must have, as "10" or "10.16"

    @model_validator(mode="after")
    def _one_image(self) -> Target:
        if self.image and self.tensorrt:
            raise ValueError("give image or tensorrt, not both")
        return self


class Measure(Strict):
    """How engines are timed; times are in seconds and count for each engine."""

    scenario: Literal["single-stream", "multi-stream", "offline", "server"] = "single-stream"
    paired: bool = True  # a variant is measured interleaved with its baseline; false: each cell separately
    warmup_seconds: Annotated[float, Field(ge=0, le=600)] = 0.2
    warmup_iterations: Annotated[int, Field(ge=1)] = 10
    min_seconds: Annotated[float, Field(gt=0, le=3600)] = 3.0
    min_iterations: Annotated[int, Field(ge=1)] = 30
    max_seconds: Annotated[float, Field(gt=0, le=3600)] = 12.0
    stability: Annotated[float, Field(gt=0, lt=1)] = 0.05  # how far the last three medians may differ, as a share
    windows: Annotated[int, Field(ge=6, le=1000)] = 6  # blocks into which min_seconds is divided
    discard: Annotated[int, Field(ge=0)] = 2  # calls that are not counted after a switch to another engine
    rate: Annotated[float | None, Field(gt=0)] = None  # server: calls a second; default: the highest that meets p99
    p99_seconds: Annotated[float | None, Field(gt=0)] = None  # server: bound of the 99th percentile
    energy_seconds: Annotated[float, Field(ge=0, le=600)] = 2.0  # length of a separate run for energy; 0: none
    profile_seconds: Annotated[float, Field(ge=0, le=600)] = 0.2  # length of a separate run under the profiler; 0: none

    @model_validator(mode="after")
    def _ordered(self) -> Measure:
        if self.max_seconds < self.min_seconds:
            raise ValueError(f"max_seconds ({self.max_seconds:g}) is less than min_seconds ({self.min_seconds:g})")
        serves = self.scenario == "server"
        if serves and self.rate is None and self.p99_seconds is None:
            raise ValueError("scenario server needs rate, or p99_seconds to search the highest rate for")
        if not serves and (self.rate is not None or self.p99_seconds is not None):
            raise ValueError(f"rate and p99_seconds need scenario: server, not {self.scenario}")
        return self


class EarlyStopping(Strict):
    """Stop scoring a cell whose accuracy is hopeless, by a sequential test with an error probability of about 1 %."""

    max_drop: Annotated[float, Field(gt=0, lt=100)]  # points below the baseline that are still acceptable
    margin: Annotated[float, Field(gt=0, lt=100)] = 5.0  # points below what is acceptable: the test's alternative


class Goal(Strict):
    """What is recommended: the recipe with the least `minimize` that meets the constraints."""

    minimize: Literal["latency", "size", "energy"] = "latency"
    max_drop: Annotated[float, Field(ge=0, le=100)] = 1.0  # points of accuracy below the baseline
    p99_seconds: Annotated[float | None, Field(gt=0)] = None  # bound of the 99th percentile of the latency
    max_megabytes: Annotated[float | None, Field(gt=0)] = None  # of the engine, 10^6 bytes


class Search(Strict):
    """How `pqbench search` finds a recipe without trying all of them."""

    trials: Annotated[int | None, Field(ge=1)] = None  # recipes tried cheaply; default: a third at most, 12 at least
    promoted: Annotated[int, Field(ge=1)] = 3  # how many of these are then tried in full
    seconds: Annotated[float, Field(gt=0, le=600)] = 0.3  # `min_seconds` of a cheap measurement


class Manifest(Strict):
    """An experiment: every model x dataset x recipe x target x batch size x concurrency x repeat is a cell."""

    name: Name
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    models: Annotated[tuple[Model, ...], Field(min_length=1)]
    datasets: Annotated[tuple[Dataset, ...], Field(min_length=1)]
    recipes: Annotated[tuple[Recipe, ...], Field(min_length=1)]
    targets: Annotated[tuple[Target, ...], Field(min_length=1)]
    batch_sizes: Annotated[tuple[Annotated[int, Field(ge=1, le=65536)], ...], Field(min_length=1)] = (1,)
    concurrency: Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=1)] = (1,)
    repeats: Annotated[int, Field(ge=1, le=1000)] = 1
    build_replicates: Annotated[int, Field(ge=1, le=100)] = 1
    early_stopping: EarlyStopping | None = None  # of scoring; default: every image is scored
    metrics: tuple[str, ...] = ("top1", "top5", "agreement", "sqnr")
    measure: Measure = Measure()
    goal: Goal = Goal()
    search: Search = Search()
    # The images on which recipes are chosen: held-out training images, half of the test split, or the whole test split.
    # auto: held-out for weights that pqbench trained, which never saw these images; half for other weights, which may
    # have been trained on them.
    selection: Literal["auto", "held-out", "half", "whole"] = "auto"
    try_artifacts: bool = True  # load each artifact in a fresh process with the runtime's defaults, as a user will
    verification_images: Annotated[int, Field(ge=2, le=4096)] = 32  # on which engines are compared with the model
    stall_seconds: Annotated[float, Field(ge=10)] = STALLED_AFTER  # a step without progress for so long has failed

    @model_validator(mode="after")
    def _unique(self) -> Manifest:
        groups: dict[str, Any] = {"models": self.models, "datasets": self.datasets, "recipes": self.all_recipes}
        for key, items in groups.items():
            _reject_repeats(key, [item.label for item in items])
        names = [target.name for target in self.targets]
        _reject_repeats("targets", names)
        for recipe in self.recipes:
            for name in recipe.targets or ():
                if name not in names:
                    raise ValueError(f"recipe {recipe.label!r}: targets: {unknown('target', name, names)}")
        _reject_repeats("batch_sizes", [str(size) for size in self.batch_sizes])
        _reject_repeats("concurrency", [str(count) for count in self.concurrency])
        if self.measure.scenario == "single-stream" and self.concurrency != (1,):
            raise ValueError("concurrency needs scenario multi-stream, offline or server; single-stream has 1")
        return self

    @property
    def all_recipes(self) -> tuple[Recipe, ...]:
        """The recipes, with one recipe for each amount in place of a list of amounts."""
        return tuple(one for recipe in self.recipes for one in recipe.expanded())

    def keys_of_steps(self) -> dict[str, str]:
        """The identity of each recipe's beginning -> the manifest's key of that beginning's last step.

        Such as "recipes.1.steps.0.prune (recipe 'x')".
        """
        found: dict[str, str] = {}
        for index, recipe in enumerate(self.recipes):
            places = [place for place, step in enumerate(recipe.steps) if step.method != "none"]
            for one in recipe.expanded():
                for count, (place, step) in enumerate(zip(places, one.steps, strict=True), 1):
                    key = f"recipes.{index}.steps.{place}.{step.kind} (recipe {one.label!r})"
                    found.setdefault(Recipe(steps=one.steps[:count]).identity, key)
        return found


def dump(manifest: Manifest, defaults: bool = True) -> str:
    """The manifest as YAML that `load_manifest` reads back, with or without the keys that have their defaults."""
    values = manifest.model_dump(mode="json", exclude_defaults=not defaults)
    for recipe in values["recipes"]:
        if "steps" in recipe:
            recipe["steps"] = [_long_form(step) for step in recipe["steps"]]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _long_form(step: dict[str, Any]) -> dict[str, Any]:
    method = {} if step["kind"] in WITHOUT_METHOD else {"method": step["method"]}
    return {step["kind"]: method | step["config"]}


def _reject_repeats(key: str, labels: list[str]) -> None:
    for label, count in Counter(labels).items():
        if count > 1:
            hint = "" if key in NUMBERS else "; give one of them another name"
            raise ValueError(f"{key}: {label!r} is given twice{hint}")
