"""The manifest: WHAT to measure; and the inventory: WHERE each target runs. Both are YAML, typed and strict."""

from __future__ import annotations

import ast
import itertools
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from pqbench_orchestrator import yaml_file
from pqbench_orchestrator.dataset import DATASETS, IsPath
from pqbench_wire.catalog import first_problem, unknown
from pqbench_wire.client import STALLED_AFTER
from pqbench_wire.errors import InvalidInput, Unavailable

# NVIDIA's images by the TensorRT version in them; the version that counts is the one that the runtime reports.
TENSORRT_TAGS = {
    "8": "24.01", "8.6": "24.01",
    "10": "26.05", "10.0": "24.05", "10.9": "25.03", "10.11": "25.06", "10.16": "26.05",
    "11": "26.07", "11.0": "26.06", "11.1": "26.07",
}  # fmt: skip


def _has_an_image(version: str) -> str:
    if version and version not in TENSORRT_TAGS:
        raise ValueError(f"no image is known with TensorRT {version}, only {', '.join(TENSORRT_TAGS)}; give an image")
    return version


def _as_text(name: object) -> object:
    """YAML reads a name of digits as a number."""
    return str(name) if isinstance(name, int) and not isinstance(name, bool) else name


def _names_no_path(name: str) -> str:
    if not 1 <= len(name) <= LONGEST_NAME or name != name.strip() or name.startswith("."):
        raise ValueError(
            f"a name has 1 to {LONGEST_NAME} characters and begins with no dot or space, got {name[:60]!r}"
        )
    if any(character in "/\\" or ord(character) < 32 for character in name):
        raise ValueError(f"a name has no slashes, line breaks and control characters, got {name[:60]!r}")
    return name


LONGEST_NAME = 120
Version = Annotated[str, AfterValidator(_has_an_image)]
Name = Annotated[str, BeforeValidator(_as_text), AfterValidator(_names_no_path)]


class Strict(BaseModel):
    """A part of a file: immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Input(Strict):
    """A model's input, where the model does not know it (a user's own code or ONNX file)."""

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
            raise ValueError(f"mean and std need {self.channels} values each, std none of 0")
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
    weights_key: str = ""  # of several state dicts in the file: which
    name: Name | None = None
    config: dict[str, Any] = {}
    preprocessing: Input | None = None
    inputs: dict[Name, Tensor] = {}  # in place of an image: what the model takes, in the order of its arguments

    @model_validator(mode="after")
    def _one_kind(self) -> Model:
        if self.preprocessing and self.inputs:
            raise ValueError("give preprocessing, for an image, or inputs; not both")
        return self

    @property
    def label(self) -> str:
        """What tables call it."""
        return (
            self.name or Path(self.model).name
            if self.is_file
            else self.name or self.model.partition("/")[2] or self.model
        )

    @property
    def is_file(self) -> bool:
        """Whether the model is the user's own file."""
        return self.model.endswith(".onnx") or ".py:" in self.model


class Dataset(Strict):
    """A dataset plug-in, or path/to/file.py:function, and its configuration."""

    dataset: Annotated[str, Field(min_length=1)]
    name: Name | None = None
    config: dict[str, Any] = {}
    test_images: Annotated[int | None, Field(ge=2)] = None  # a seeded choice of so many; default: all
    train_images: Annotated[int | None, Field(ge=2)] = None

    @property
    def label(self) -> str:
        """What tables call it."""
        return self.name or (Path(self.dataset).name if self.is_own else self.dataset)

    @property
    def is_own(self) -> bool:
        """Whether the dataset is a function in the user's own file."""
        return ".py:" in self.dataset


WITHOUT_METHOD = {"recalibrate": "batch-norm", "finetune": "gradient"}  # kinds of steps with one way each
KINDS = ("prune", *WITHOUT_METHOD, "quantize")


class Step(Strict):
    """One step of a recipe: {prune: {method: …, …}}, {recalibrate: {…}}, {finetune: {…}} or {quantize: …}."""

    kind: Literal["prune", "recalibrate", "finetune", "quantize"]
    method: str
    config: dict[str, Any]

    @property
    def is_own(self) -> bool:
        """Whether the method is a class in the user's own file."""
        return ".py:" in self.method

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError(f"a step is a mapping, as {{prune: {{…}}}}, got {json.dumps(value)[:60]}")
        if set(value) == {"kind", "method", "config"}:
            return value
        if len(value) != 1:
            raise ValueError(
                f"a step has one kind; got {', '.join(map(str, value)) or 'none'}: write one list item for each"
            )
        kind, config = next(iter(value.items()))
        if kind not in KINDS:
            raise ValueError(unknown("step", str(kind), KINDS))
        if isinstance(config, str) and kind not in WITHOUT_METHOD:
            config = {"method": config}
        config = {} if config is None else config
        if not isinstance(config, dict):
            wanted = "a mapping" if kind in WITHOUT_METHOD else "a method's name, or a mapping with method"
            raise ValueError(f"{kind} takes {wanted}, got {json.dumps(config)[:60]}")
        config = dict(config)
        if kind not in WITHOUT_METHOD and "method" not in config:
            raise ValueError(f"{kind} needs a method")
        return {"kind": kind, "method": WITHOUT_METHOD.get(kind) or config.pop("method"), "config": config}

    @model_validator(mode="after")
    def _counts(self) -> Step:
        """An amount is a number or a list of them; a class of the user's own may call so what it likes."""
        if "amount" in self.config and not self.is_own:
            given = self.config["amount"]
            if given == []:
                raise ValueError(f"{self.kind}.amount: an empty list gives no recipe")
            for amount in given if isinstance(given, list) else [given]:
                if isinstance(amount, bool) or not isinstance(amount, (int, float)):
                    raise ValueError(
                        f"{self.kind}.amount must be a number, as 0.5, or a list of numbers, "
                        f"got {json.dumps(amount)[:60]}"
                    )
        return self


class Recipe(Strict):
    """An ordered list of steps; none is the baseline. A list as `amount` stands for one recipe each."""

    name: Name | None = None
    steps: tuple[Step, ...] = ()
    targets: tuple[str, ...] | None = None  # only on these; default: on all

    @model_validator(mode="after")
    def _quantizes_last(self) -> Recipe:
        if any(step.kind == "quantize" for step in self.steps[:-1]):
            raise ValueError("steps: quantize must be the last step: what follows would undo it")
        return self

    @property
    def label(self) -> str:
        """What tables call it."""
        return self.name or " + ".join(_short(step) for step in self.steps) or "baseline"

    @property
    def identity(self) -> str:
        """What the recipe does, whatever its name."""
        return json.dumps([step.model_dump() for step in self.steps], sort_keys=True)

    def expanded(self) -> list[Recipe]:
        """One recipe for each amount; steps with method `none` dropped."""
        steps = [step for step in self.steps if step.method != "none"]
        choices = [_amounts(step) for step in steps]
        many = any(len(choice) > 1 for choice in choices)
        made = []
        for chosen in itertools.product(*choices):
            amounts = " ".join(_written(s.config["amount"]) for s in chosen if "amount" in s.config)
            name = f"{self.name} {amounts}" if self.name and many else self.name
            made.append(Recipe.model_construct(name=name, steps=tuple(chosen), targets=self.targets))
        return made


class Target(Strict):
    """A runtime backend with its options; the inventory says where it runs, or an image is named here."""

    name: Name
    backend: Annotated[str, Field(min_length=1)]
    options: dict[str, Any] = {}
    image: str = ""  # container image of the runtime
    tensorrt: Version = ""  # or the TensorRT version that it is to have, as "10" or "10.16"

    @model_validator(mode="after")
    def _one_image(self) -> Target:
        if self.image and self.tensorrt:
            raise ValueError("give image or tensorrt, not both")
        return self

    @property
    def place(self) -> Place | None:
        """The container that it names."""
        named = self.image or self.tensorrt
        return Place(docker=DockerPlace(image=self.image, tensorrt=self.tensorrt)) if named else None

    @property
    def kinds(self) -> tuple[str, ...]:
        """What an inventory may call its place, the most exact first: "tensorrt 10", "tensorrt"."""
        major = self.tensorrt.partition(".")[0]
        return (f"{self.backend} {major}", self.backend) if major else (self.backend,)


SCENARIOS = ("single-stream", "multi-stream", "offline", "server")


class Measure(Strict):
    """How engines are timed; times in seconds, for each engine."""

    scenario: Literal["single-stream", "multi-stream", "offline", "server"] = "single-stream"
    paired: bool = True  # a variant interleaved with its baseline; false: each cell for itself
    warmup_seconds: Annotated[float, Field(ge=0, le=600)] = 0.2
    warmup_iterations: Annotated[int, Field(ge=1)] = 10
    min_seconds: Annotated[float, Field(gt=0, le=3600)] = 3.0
    min_iterations: Annotated[int, Field(ge=1)] = 30
    max_seconds: Annotated[float, Field(gt=0, le=3600)] = 12.0
    stability: Annotated[float, Field(gt=0, lt=1)] = 0.05
    windows: Annotated[int, Field(ge=6, le=1000)] = 6
    discard: Annotated[int, Field(ge=0)] = 2
    rate: Annotated[float | None, Field(gt=0)] = None  # server: calls a second; default: the highest that meets p99
    p99_seconds: Annotated[float | None, Field(gt=0)] = None  # server
    energy_seconds: Annotated[float, Field(ge=0, le=600)] = 2.0  # of a run of its own, where there is a counter
    profile_seconds: Annotated[float, Field(ge=0, le=600)] = 0.2  # of a run of its own under the profiler; 0: none

    @model_validator(mode="after")
    def _ordered(self) -> Measure:
        if self.max_seconds < self.min_seconds:
            raise ValueError(f"max_seconds ({self.max_seconds:g}) is less than min_seconds ({self.min_seconds:g})")
        serves = self.scenario == "server"
        if serves and self.rate is None and self.p99_seconds is None:
            raise ValueError("scenario server needs rate, or p99_seconds to search the highest rate for")
        if not serves and (self.rate is not None or self.p99_seconds is not None):
            raise ValueError(f"rate and p99_seconds are of scenario server, not of {self.scenario}")
        return self


class EarlyStopping(Strict):
    """Stop scoring a cell whose accuracy is hopeless: a sequential test that errs once in a hundred."""

    max_drop: Annotated[float, Field(gt=0, lt=100)]  # points below the baseline that are still acceptable
    margin: Annotated[float, Field(gt=0, lt=100)] = 5.0  # points beyond, at which a cell is hopeless


class Goal(Strict):
    """What is recommended: the cheapest recipe that keeps the constraints."""

    minimize: Literal["latency", "size", "energy"] = "latency"
    max_drop: Annotated[float, Field(ge=0, le=100)] = 1.0  # points of accuracy below the baseline
    p99_seconds: Annotated[float | None, Field(gt=0)] = None
    max_megabytes: Annotated[float | None, Field(gt=0)] = None  # of the engine, 10^6 bytes


class Search(Strict):
    """How `pqbench search` looks through the recipes in place of trying all."""

    trials: Annotated[int | None, Field(ge=1)] = None  # tried cheaply; default: a third of the recipes, at least 12
    promoted: Annotated[int, Field(ge=1)] = 3  # of these, tried in full
    seconds: Annotated[float, Field(gt=0, le=600)] = 0.3  # of a cheap measurement


class Manifest(Strict):
    """An experiment: every model x dataset x recipe x target x batch size x repeat is a cell."""

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
    early_stopping: EarlyStopping | None = None  # of accuracy; default: every image is scored
    metrics: tuple[str, ...] = ("top1", "top5", "agreement", "sqnr")
    measure: Measure = Measure()
    goal: Goal = Goal()
    search: Search = Search()
    # On which images recipes are chosen: held-out training images, a half of the split that scores, or all of that;
    # auto: held-out ones for weights that pqbench trained, which never saw them, the half for others, which may have.
    selection: Literal["auto", "held-out", "half", "whole"] = "auto"
    try_artifacts: bool = True  # load each artifact in a fresh process with the runtime's defaults, as a user will
    verification_images: Annotated[int, Field(ge=2, le=4096)] = 32
    stall_seconds: Annotated[float, Field(ge=10)] = STALLED_AFTER  # without progress, after which a step has failed

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
            raise ValueError("concurrency is of the scenarios multi-stream, offline and server; single-stream has 1")
        return self

    @property
    def all_recipes(self) -> tuple[Recipe, ...]:
        """The recipes with their lists of amounts written out."""
        return tuple(one for recipe in self.recipes for one in recipe.expanded())

    def key_of(self, steps: tuple[Step, ...]) -> str:
        """Where the last of `steps`, with which a recipe begins, is written: "recipes.1.steps.0.prune (recipe 'x')"."""
        for index, recipe in enumerate(self.recipes):
            for one in recipe.expanded():
                if steps and one.steps[: len(steps)] == steps:
                    place = [i for i, step in enumerate(recipe.steps) if step.method != "none"][len(steps) - 1]
                    return f"recipes.{index}.steps.{place}.{steps[-1].kind} (recipe {one.label!r})"
        return "recipes"


class ProcessPlace(Strict):
    """A local process, started and ended by pqbench."""

    allow_code: bool = False
    python: str = ""  # interpreter of another environment; default: the one that runs pqbench


class EndpointPlace(Strict):
    """A running service."""

    address: Annotated[str, Field(pattern=r"^(unix:.+|.+:\d+)$")]
    token_file: Path | None = None
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None


class DockerPlace(Strict):
    """A container, started and ended by pqbench; containers run one at a time."""

    image: str = ""
    tensorrt: Version = ""  # in place of an image: the TensorRT version
    gpus: bool | None = None  # default: with a TensorRT version

    @model_validator(mode="after")
    def _one_image(self) -> DockerPlace:
        if bool(self.image) == bool(self.tensorrt):
            raise ValueError("needs exactly one of: image, tensorrt")
        return self

    @property
    def uses_gpus(self) -> bool:
        """Whether the container is given the GPUs."""
        return bool(self.tensorrt) if self.gpus is None else self.gpus


class Place(Strict):
    """Where one service runs: {process: {}}, {endpoint: {address: host:port}} or {docker: {image: name}}."""

    process: ProcessPlace | None = None
    endpoint: EndpointPlace | None = None
    docker: DockerPlace | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("endpoint"), str):
            return value | {"endpoint": {"address": value["endpoint"]}}
        if isinstance(value, dict) and isinstance(value.get("docker"), str):
            return value | {"docker": {"image": value["docker"]}}
        return {"process": {}} if value in ("process", {"process": None}) else value

    @model_validator(mode="after")
    def _one(self) -> Place:
        if sum(way is not None for way in (self.process, self.endpoint, self.docker)) != 1:
            raise ValueError("needs exactly one of: process, endpoint, docker")
        return self


LOCAL = Place(process=ProcessPlace())


class Inventory(Strict):
    """Where the compressors and the targets run; what is not named is a local process."""

    compressor: Place = LOCAL
    compressors: dict[Name, Place] = {}  # others, asked for the plug-ins that the first lacks
    targets: dict[str, Place] = {}
    backends: dict[str, Place] = {}  # for targets that are not named: by backend, or "tensorrt 10"

    def place_of(self, target: Target) -> Place | None:
        """Where a target runs: as named here, as its backend does here, as the manifest says."""
        by_kind = (self.backends[kind] for kind in target.kinds if kind in self.backends)
        return self.targets.get(target.name) or next(by_kind, None) or target.place


Part = TypeVar("Part", bound=Strict)


def load_manifest(path: Path) -> Manifest:
    """The manifest in a YAML file, its paths made absolute. Raises InvalidInput with file and key."""
    manifest = _load(path, Manifest)
    return _absolute(manifest, path.resolve().parent)


def load_inventory(path: Path, manifest: Manifest) -> Inventory:
    """The inventory in a YAML file. Raises InvalidInput with file and key."""
    inventory = _load(path, Inventory)
    names = [target.name for target in manifest.targets]
    for name in inventory.targets:
        if name not in names:
            raise InvalidInput(f"{path}: targets: {unknown('target', name, names)}")
    return inventory


def dump(manifest: Manifest) -> str:
    """The manifest as YAML that `load_manifest` reads back."""
    values = manifest.model_dump(mode="json")
    for recipe in values["recipes"]:
        recipe["steps"] = [_long_form(step) for step in recipe["steps"]]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _long_form(step: dict[str, Any]) -> dict[str, Any]:
    method = {} if step["kind"] in WITHOUT_METHOD else {"method": step["method"]}
    return {step["kind"]: method | step["config"]}


def _load(path: Path, kind: type[Part]) -> Part:
    values = yaml_file.read(path)
    try:
        # As JSON: strict about types, a list being a tuple all the same.
        return kind.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise InvalidInput(f"{path}: {_problem(error, kind)}") from error


def _problem(error: ValidationError, kind: type[BaseModel]) -> str:
    problems = error.errors(include_url=False)
    # A mistyped key is why another is missing: it is told first.
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    *parents, last = problem["loc"] or ("",)
    if problem["type"] == "extra_forbidden":
        where = ".".join(str(part) for part in parents)
        return f"{where + ': ' if where else ''}{unknown('key', str(last), _keys(kind, parents))}"
    return first_problem(error)


def _keys(kind: type[BaseModel], path: list[int | str]) -> list[str]:
    """The valid keys of the mapping at `path`."""
    for part in path:
        if isinstance(part, str) and part in kind.model_fields:
            kind = _nested(kind.model_fields[part].annotation) or kind
    return list(kind.model_fields)


def _nested(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_nested(argument) for argument in typing.get_args(annotation))
    return next((kind for kind in found if kind), None)


def _absolute(manifest: Manifest, base: Path) -> Manifest:
    """Paths of a manifest are relative to its file."""
    models = []
    for model in manifest.models:
        change: dict[str, Any] = {}
        if model.is_file:
            change["model"] = str(base / model.model)
        if model.weights not in ("default", "none"):
            change["weights"] = str(base / model.weights)
        models.append(model.model_copy(update=change))
    datasets = [_absolute_dataset(dataset, base) for dataset in manifest.datasets]
    recipes = [
        recipe.model_copy(update={"steps": tuple(_absolute_step(step, base) for step in recipe.steps)})
        for recipe in manifest.recipes
    ]
    return manifest.model_copy(update={"models": tuple(models), "datasets": tuple(datasets), "recipes": tuple(recipes)})


def _absolute_dataset(dataset: Dataset, base: Path) -> Dataset:
    if dataset.is_own:
        dataset = dataset.model_copy(update={"dataset": str(base / dataset.dataset)})
    keys = _path_keys(dataset)
    paths = {
        key: str(base / value)
        for key, value in dataset.config.items()
        if key in keys and value and isinstance(value, str)
    }
    return dataset.model_copy(update={"config": dataset.config | paths})


def _absolute_step(step: Step, base: Path) -> Step:
    return step.model_copy(update={"method": str(base / step.method)}) if step.is_own else step


def _path_keys(dataset: Dataset) -> set[str]:
    """The keys of a dataset's configuration that name files, by the types in its plug-in or in the user's function."""
    if dataset.is_own:
        return set(_paths_of_function(*dataset.dataset.rsplit(":", 1)))
    try:
        config = DATASETS.load(dataset.dataset).Config
    except (InvalidInput, Unavailable):  # the survey says so, with the dataset's key
        return set()
    hints = typing.get_type_hints(config, include_extras=True)
    return {name for name, hint in hints.items() if any(isinstance(one, IsPath) for one in typing.get_args(hint))}


def _paths_of_function(file: str, name: str) -> Iterator[str]:
    """The arguments of a function in a file, which is not run, that are annotated as Path."""
    try:
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):  # whoever runs it says so
        return
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            for argument in (*node.args.args, *node.args.kwonlyargs):
                if argument.annotation is not None and "Path" in ast.unparse(argument.annotation):
                    yield argument.arg


def _amounts(step: Step) -> list[Step]:
    amounts = step.config.get("amount")
    if not isinstance(amounts, list):
        return [step]
    return [step.model_copy(update={"config": step.config | {"amount": amount}}) for amount in amounts]


def _short(step: Step) -> str:
    amount = step.config.get("amount")
    name = step.kind if step.kind in WITHOUT_METHOD else step.method.rpartition(":")[2]
    return f"{name} {amount:g}" if isinstance(amount, (int, float)) else name


def _written(amount: Any) -> str:
    return f"{amount:g}" if isinstance(amount, (int, float)) else str(amount)


NUMBERS = ("batch_sizes", "concurrency")


def _reject_repeats(key: str, labels: list[str]) -> None:
    for label in labels:
        if labels.count(label) > 1:
            hint = "" if key in NUMBERS else "; give one of them another name"
            raise ValueError(f"{key}: {label!r} is given twice{hint}")
