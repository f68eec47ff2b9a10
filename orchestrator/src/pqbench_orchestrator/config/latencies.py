"""`latencies: measured` in a recipe's step: the time of each layer, which `pqbench search` measures first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pqbench_orchestrator.config.manifest import Manifest
from pqbench_orchestrator.config.recipes import Recipe, Step

MEASURED = "measured"


def waits(recipe: Recipe) -> bool:
    """Whether a step of the recipe needs times that are to be measured."""
    return any(_waits(step) for step in recipe.steps)


def quantization(recipe: Recipe) -> Recipe:
    """The recipe's quantization alone, which decides how long its layers take."""
    return Recipe(steps=tuple(step for step in recipe.steps if step.kind == "quantize"))


def with_latencies(manifest: Manifest, measured: Mapping[str, Mapping[str, Any]]) -> Manifest:
    """The manifest with times in place of `measured`, by the definition of the recipe's quantization."""
    return _changed(manifest, lambda recipe: {"latencies": measured[quantization(recipe).definition]})


def without_latencies(manifest: Manifest) -> Manifest:
    """The manifest with multiply-accumulates in place of times, by which a recipe's other options can be checked."""
    return _changed(manifest, lambda _: {"target": "macs", "latencies": {}})


def _changed(manifest: Manifest, change: Callable[[Recipe], dict[str, Any]]) -> Manifest:
    recipes = tuple(
        recipe.model_copy(update={"steps": tuple(
            step.model_copy(update={"config": step.config | change(recipe)}) if _waits(step) else step
            for step in recipe.steps
        )})
        for recipe in manifest.recipes
    )  # fmt: skip
    return manifest.model_copy(update={"recipes": recipes})


def _waits(step: Step) -> bool:
    return not step.is_own and step.config.get("latencies") == MEASURED
