"""Makes the paths in a manifest absolute: they are relative to its file, and type annotations say which they are."""

from __future__ import annotations

import ast
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pqbench_orchestrator.config.manifest import Dataset, Manifest
from pqbench_orchestrator.config.recipes import Step
from pqbench_orchestrator.dataset import DATASETS, IsPath
from pqbench_wire.errors import InvalidInput, Unavailable


def absolute(manifest: Manifest, base: Path) -> Manifest:
    """The manifest with its paths, which are relative to the folder `base`, made absolute."""
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
    """The keys of a dataset's configuration that are paths, as its plug-in or the user's function annotates them."""
    if dataset.is_own:
        return set(_paths_of_function(*dataset.dataset.rsplit(":", 1)))
    try:
        config = DATASETS.load(dataset.dataset).Config
    except (InvalidInput, Unavailable):  # the survey reports it, with the dataset's key
        return set()
    hints = typing.get_type_hints(config, include_extras=True)
    return {name for name, hint in hints.items() if any(isinstance(one, IsPath) for one in typing.get_args(hint))}


def _paths_of_function(file: str, name: str) -> Iterator[str]:
    """The names of a function's arguments that are annotated as Path; the file is parsed but not run."""
    try:
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):  # reported when the function is called
        return
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            for argument in (*node.args.args, *node.args.kwonlyargs):
                if argument.annotation is not None and "Path" in ast.unparse(argument.annotation):
                    yield argument.arg
