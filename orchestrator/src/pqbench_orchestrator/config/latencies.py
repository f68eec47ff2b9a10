"""`latencies: measured` in a recipe's step: the time of each layer, which `pqbench search` measures first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pqbench_orchestrator.config.manifest import Manifest
from pqbench_orchestrator.config.recipes import Recipe, Step
from pqbench_wire.errors import InvalidInput

MEASURED = "measured"


def needs_times(recipe: Recipe) -> bool:
    """Whether a step of the recipe needs times that are to be measured."""
    return any(_needs_times(step) for step in recipe.steps)


def quantizations(manifest: Manifest) -> dict[str, Recipe]:
    """How the recipes that need times are quantized, which decides how long layers take, by its definition."""
    return {
        _quantization(recipe).definition: _quantization(recipe) for recipe in manifest.recipes if needs_times(recipe)
    }


def with_latencies(manifest: Manifest, measured: Mapping[str, Mapping[str, Any]]) -> Manifest:
    """The manifest with times in place of `measured`, by the definition of the recipe's quantization."""
    return _changed(manifest, lambda recipe: {"latencies": measured[_quantization(recipe).definition]})


def without_latencies(manifest: Manifest) -> Manifest:
    """The manifest with multiply-accumulates in place of times, by which it can be planned, and its options checked."""
    return _changed(manifest, lambda _: {"target": "macs", "latencies": {}})


def check_for_search(manifest: Manifest) -> None:
    """Raise InvalidInput where times are to be measured, but cannot be or are not used."""
    for index, recipe in enumerate(manifest.recipes):
        if any(_needs_times(step) and step.config.get("target") != "latency" for step in recipe.steps):
            raise InvalidInput(f"recipes.{index} ({recipe.label}): latencies: {MEASURED} needs target: latency")
        if needs_times(recipe) and len(manifest.targets) > 1:
            raise InvalidInput(
                f"recipes.{index} ({recipe.label}): latencies: {MEASURED} takes one target, not "
                f"{len(manifest.targets)}: layers take other times on each"
            )


def check_for_run(manifest: Manifest) -> None:
    """Raise InvalidInput where times are to be measured, which only a search does."""
    for index, recipe in enumerate(manifest.recipes):
        if needs_times(recipe):
            raise InvalidInput(
                f"recipes.{index} ({recipe.label}): latencies: {MEASURED} is for pqbench search, which measures them; "
                "pqbench why RUN CELL --latencies prints those of a run"
            )


def _quantization(recipe: Recipe) -> Recipe:
    return Recipe(steps=tuple(step for step in recipe.steps if step.kind == "quantize" and step.method != "none"))


def _changed(manifest: Manifest, change: Callable[[Recipe], dict[str, Any]]) -> Manifest:
    recipes = tuple(
        recipe.model_copy(update={"steps": tuple(
            step.model_copy(update={"config": step.config | change(recipe)}) if _needs_times(step) else step
            for step in recipe.steps
        )})
        for recipe in manifest.recipes
    )  # fmt: skip
    return manifest.model_copy(update={"recipes": recipes})


def _needs_times(step: Step) -> bool:
    return not step.is_own and step.config.get("latencies") == MEASURED
