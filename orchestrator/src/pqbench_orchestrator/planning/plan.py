"""The plan: deduplicated steps and the table's cells, from a manifest and a survey, without calling a service.

A step's key is the SHA-256 of its kind, its configuration (with the seed where one is used), the keys
of the steps that it needs, the versions of the tools that do it and, on a target, the device (of an engine that is
built ahead of time, what it is built for). Steps with
equal keys are one step: a pruned model that three quantizers use is pruned once, a variant that three
targets use is compressed once, and one accuracy pass serves all batch sizes and repeats.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pqbench_orchestrator.config.manifest import Dataset, Manifest, Model, Target
from pqbench_orchestrator.config.recipes import Recipe
from pqbench_orchestrator.config.shard import WHOLE, Shard
from pqbench_orchestrator.planning.facts import DatasetFacts, RecipeFacts, Survey, TargetFacts
from pqbench_orchestrator.planning.step_graph import BASELINE, Load, StepGraph
from pqbench_orchestrator.steps.step import Step, digest

SIMULATED = "PRECISION_SIMULATED"  # few bits, simulated in FP32 arithmetic: its time would mean nothing
# Roles of steps that may fail without the cell failing.
DIAGNOSTICS = ("profile", "baseline profile", "artifact", "baseline fidelity")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row of the results, as planned."""

    key: str
    model: str
    dataset: str
    recipe: Recipe
    target: Target
    batch_size: int
    concurrency: int
    repeat: int
    scenario: str
    selection: str = "whole"  # on which images recipes are chosen: held-out, half, or whole
    seed: int = 0
    precision: str = ""
    form: str = ""
    outcome: str = ""  # refused or unavailable, where that is known before any work; unavailable ones may be built
    reason: str = ""
    steps: dict[str, str] = field(default_factory=dict)  # role -> key of the step
    preparation: tuple[str, ...] = ()  # keys of the compress steps of its recipe, in order


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Steps in the order of their execution, cells in the order of the table."""

    steps: tuple[Step, ...]
    cells: tuple[Cell, ...]


def plan(
    manifest: Manifest,
    facts: Survey,
    run: str,
    versions: dict[str, str],
    cheap: bool = False,
    build_only: bool = False,
    shard: Shard = WHOLE,
) -> Plan:
    """The plan of a run named `run`; `versions` are those of the orchestrator itself.

    `cheap`: only the steps that a trial of a search needs, which are those that a choice between recipes looks at.
    `build_only`: only the steps to the engines. `shard`: only its cells, with the steps that these need.
    """
    graph, recipes, kept = StepGraph(manifest, facts, run, versions, cheap), manifest.all_recipes, shard.pairs(manifest)
    cells = [
        _cell(graph, model, dataset, recipe, target, Load(batch_size, concurrency), repeat, build_only)
        for model in manifest.models
        for dataset in manifest.datasets
        for recipe in recipes
        for target in manifest.targets
        if (model.label, target.name) in kept
        if recipe.targets is None or target.name in recipe.targets
        for batch_size in manifest.batch_sizes
        for concurrency in manifest.concurrency
        for repeat in range(manifest.repeats)
    ]
    return Plan(steps=tuple(sorted(graph.steps.values(), key=lambda step: step.stage)), cells=tuple(cells))


def needed(whole: Plan, keys: Iterable[str]) -> tuple[Step, ...]:
    """The steps with these keys, and those that they need in turn, in the plan's order."""
    steps = {step.key: step for step in whole.steps}
    wanted: set[str] = set()
    waiting = list(keys)
    while waiting:
        key = waiting.pop()
        if key not in wanted:
            wanted.add(key)
            waiting += steps[key].needs.values()
    return tuple(step for step in whole.steps if step.key in wanted)


def _cell(
    graph: StepGraph,
    model: Model,
    dataset: Dataset,
    recipe: Recipe,
    target: Target,
    load: Load,
    repeat: int,
    build_only: bool,
) -> Cell:
    facts, runtime = graph.facts_of(model, recipe), graph.facts.targets[target.name]
    at_once = [load.concurrency] if load.concurrency > 1 else []
    identity = [model.label, dataset.label, recipe.label, target.name, load.batch_size, *at_once, repeat]
    known: dict[str, Any] = {
        "key": digest(identity)[:12],
        "model": model.label,
        "dataset": dataset.label,
        "recipe": recipe,
        "target": target,
        "batch_size": load.batch_size,
        "concurrency": load.concurrency,
        "repeat": repeat,
        "scenario": graph.manifest.measure.scenario,
        "selection": graph.selection(model, dataset),
        "seed": graph.manifest.seed,
        "precision": facts.precision.removeprefix("PRECISION_"),
        "form": runtime.form(facts.precision, facts.forms).removeprefix("FORM_"),
    }
    stops = _stops_after_build(runtime, build_only)
    outcome, reason = _outcome(graph, model, facts, runtime, target, dataset, load, runs=not stops)
    if outcome:
        return Cell(**known, outcome=outcome, reason=reason)
    roles = {
        "unpruned": graph.checkpoint(model, dataset, ()),
        "variant": graph.variant(model, dataset, recipe, target),
        "build": graph.build(model, dataset, recipe, target, load.batch_size),
    }
    if stops:
        roles |= graph.other_builds(model, dataset, recipe, target, load.batch_size)
    else:
        roles |= _run(graph, model, dataset, recipe, target, load, repeat)
    return Cell(
        **known,
        outcome="unavailable" if stops else "",
        reason=stops,
        steps={role: key for role, key in roles.items() if key},
        preparation=(*graph.preparation(model, dataset, recipe), roles["variant"]),
    )


def _run(
    graph: StepGraph, model: Model, dataset: Dataset, recipe: Recipe, target: Target, load: Load, repeat: int
) -> dict[str, str]:
    """The steps that run a cell's engine, by role."""
    roles = {
        "fidelity": graph.verify(model, dataset, recipe, target, load.batch_size),
        "baseline fidelity": graph.verify(model, dataset, BASELINE, target, load.batch_size),
        **graph.of_all_loads(model, dataset, recipe, target),
    }
    if graph.facts_of(model, recipe).precision != SIMULATED:
        roles |= graph.timed(model, dataset, recipe, target, load, repeat)
    return roles


def _stops_after_build(runtime: TargetFacts, build_only: bool) -> str:
    """Why cells of a target end with the engine; empty where they are measured."""
    if runtime.lacks_device:
        return f"{runtime.lacks_device}; built for {runtime.built_for}"
    return "built, not measured" if build_only else ""


def _outcome(
    graph: StepGraph,
    model: Model,
    facts: RecipeFacts,
    runtime: TargetFacts,
    target: Target,
    dataset: Dataset,
    load: Load,
    runs: bool,
) -> tuple[str, str]:
    """Outcome and reason of a cell that is known before any work not to be built or, if it `runs`, not to run.

    Empty texts where it can.
    """
    unpruned = graph.facts_of(model, BASELINE)
    if facts.unavailable or runtime.unavailable:
        return "unavailable", facts.unavailable or runtime.unavailable
    if refused := unpruned.refused or facts.refused:
        return "refused", refused
    if unpruned.fixed_batch not in (0, load.batch_size):
        return (
            "refused",
            f"the file's batch is fixed at {unpruned.fixed_batch}: export it with a dynamic batch axis",
        )
    if facts.precision in runtime.refused:
        return "refused", runtime.refused[facts.precision]
    if runs and unpruned.precision in runtime.refused:
        return "refused", f"its baseline cannot be built: {runtime.refused[unpruned.precision]}"
    precision = facts.precision.removeprefix("PRECISION_")
    routes = runtime.routes.get(facts.precision)
    if routes is None:
        return "refused", f"{target.backend} has no route for {precision}"
    if not runtime.form(facts.precision, facts.forms):
        wanted, available = (", ".join(f.removeprefix("FORM_") for f in forms) for forms in (routes, facts.forms))
        why = f": {facts.withheld}" if facts.withheld else ""
        return "refused", f"{target.backend} runs {precision} as {wanted}; this model and recipe give {available}{why}"
    reason = unsuitable(facts, unpruned.classes, dataset.label, graph.facts.datasets[dataset.label])
    return ("refused", reason) if reason else ("", "")


def unsuitable(facts: RecipeFacts, classes: int, dataset: str, data: DatasetFacts) -> str:
    """Why a dataset does not suit a recipe (`facts`) on a model with so many `classes`; empty where it does."""
    if facts.inputs != data.inputs:
        return f"the model takes {_listed(facts.inputs)}; dataset {dataset} has {_listed(data.inputs)}"
    if (facts.trains or any(facts.needs_training)) and "train" not in data.fingerprints:
        return f"dataset {dataset} has no training split, which this model or recipe needs"
    if (facts.trains or any(facts.needs_labels)) and "train" in data.unlabelled:
        return f"dataset {dataset} has no labels, which this model or recipe needs"
    if 0 < classes < data.labels and "test" not in data.unlabelled and not data.inputs:
        return f"the model has {classes} outputs; dataset {dataset} needs {data.labels}"
    return ""


def _listed(inputs: dict[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in inputs.items()) or "images"
