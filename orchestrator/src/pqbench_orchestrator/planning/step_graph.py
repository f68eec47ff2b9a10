"""Makes the steps that cells need, each once, with keys, dependencies and order; it calls no service."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from google.protobuf import json_format

from pqbench_orchestrator.config import recipes
from pqbench_orchestrator.config.manifest import Dataset, Manifest, Model, Target
from pqbench_orchestrator.config.recipes import Recipe
from pqbench_orchestrator.config.strict import Strict
from pqbench_orchestrator.dataset import SplitName
from pqbench_orchestrator.planning.facts import RecipeFacts, Survey
from pqbench_orchestrator.planning.places import ORCHESTRATOR, of_target
from pqbench_orchestrator.steps.build import Build
from pqbench_orchestrator.steps.compress import Compress, step_message
from pqbench_orchestrator.steps.measure import Measure
from pqbench_orchestrator.steps.predict import Predict, StopEarly
from pqbench_orchestrator.steps.prepare import Prepare
from pqbench_orchestrator.steps.profile import Profile
from pqbench_orchestrator.steps.score import Score
from pqbench_orchestrator.steps.step import Spec, Step, key_of
from pqbench_orchestrator.steps.try_artifact import TryArtifact
from pqbench_orchestrator.steps.verify import Verify

LATER = 1 << 20  # larger than every target's rank
TRIED_BATCHES = (1, 3)  # batch sizes with which an artifact without a fixed batch size is tried
BASELINE = Recipe()
Given = ParamSpec("Given")
Made = TypeVar("Made")


def once(make: Callable[Concatenate[StepGraph, Given], Made]) -> Callable[Concatenate[StepGraph, Given], Made]:
    """Let a method make its steps once; with equal arguments it returns the same keys again.

    Parts of the manifest are equal where they are the same object; they are kept, so that an id stays its own.
    """

    @functools.wraps(make)
    def found(graph: StepGraph, /, *given: Given.args, **named: Given.kwargs) -> Made:
        place = (make, *[id(one) if isinstance(one, Strict) else _place(one) for one in (*given, *named.items())])
        if place not in graph.made:
            graph.made[place] = make(graph, *given, **named), (given, named)
        made: Made = graph.made[place][0]
        return made

    return found


def _place(given: Any) -> Any:
    return tuple(id(one) if isinstance(one, Strict) else one for one in given) if isinstance(given, tuple) else given


class Load(NamedTuple):
    """The load of an engine in one cell: images in a call, and calls at the same time."""

    batch_size: int
    concurrency: int


@dataclass
class StepGraph:
    """Makes the steps that cells need, each once; a method that makes a step returns its key.

    `cheap`: only the steps that a choice between recipes looks at.
    """

    manifest: Manifest
    facts: Survey
    run: str  # the run's name
    versions: dict[str, str]  # of the orchestrator itself
    cheap: bool = False
    steps: dict[str, Step] = field(default_factory=dict)  # by key
    made: dict[Any, Any] = field(default_factory=dict)  # what `once` keeps
    _texts: dict[int, tuple[recipes.Step, str]] = field(default_factory=dict)  # a recipe's step, by its id, as JSON

    @once
    def preparation(self, model: Model, dataset: Dataset, recipe: Recipe) -> tuple[str, ...]:
        """The steps whose checkpoints are the model after each of the recipe's steps that does not quantize."""
        pruned = [step for step in recipe.steps if step.kind != "quantize"]
        return tuple(self.checkpoint(model, dataset, tuple(pruned[: n + 1])) for n in range(len(pruned)))

    @once
    def of_all_loads(self, model: Model, dataset: Dataset, recipe: Recipe, target: Target) -> dict[str, str]:
        """The steps that cells of all batch sizes and concurrencies share, by role; a key is empty without a step."""
        roles = {
            "artifact": self.try_artifact(model, dataset, recipe, target),
            "inputs": self.prepare(model, dataset, "test", dataset.test_images),
            "held-out score": self.held_out_score(model, dataset, recipe, target),
        }
        if not (self.cheap and roles["held-out score"]):
            roles["predict"] = self.predict(model, dataset, recipe, target)
            roles["score"] = self.score(model, dataset, recipe, target, roles["predict"])
        return roles

    def other_builds(
        self, model: Model, dataset: Dataset, recipe: Recipe, target: Target, batch_size: int
    ) -> dict[str, str]:
        """The engines that are measured with a cell's own, by role: its baseline's, if it has one, and replicates."""
        roles = {}
        if recipe.steps and self.facts_of(model, BASELINE).precision not in self.facts.targets[target.name].refused:
            roles["baseline build"] = self.build(model, dataset, BASELINE, target, batch_size)
        for replicate in range(1, self.manifest.build_replicates):
            roles[f"build {replicate}"] = self.build(model, dataset, recipe, target, batch_size, replicate)
        return roles

    def timed(
        self, model: Model, dataset: Dataset, recipe: Recipe, target: Target, load: Load, repeat: int
    ) -> dict[str, str]:
        """The steps for a cell's times, by role: measuring each replicate, its baseline, and profiling the layers."""
        measure = self.manifest.measure
        roles = {"measure": self._measure(model, dataset, recipe, target, load, repeat, 0)}
        roles |= self.other_builds(model, dataset, recipe, target, load.batch_size)
        for replicate in range(1, self.manifest.build_replicates):
            roles[f"measure {replicate}"] = self._measure(model, dataset, recipe, target, load, repeat, replicate)
        if recipe.steps and not measure.paired and measure.scenario != "server":
            roles["baseline measure"] = self._measure(model, dataset, BASELINE, target, load, repeat, 0)
        if measure.profile_seconds and not self.cheap:
            roles["profile"] = self._profile(model, dataset, recipe, target, load.batch_size)
            roles["baseline profile"] = self._profile(model, dataset, BASELINE, target, load.batch_size)
        return roles

    @once
    def prepare(
        self, model: Model, dataset: Dataset, split: SplitName, limit: int | None, held_out: int | None = None
    ) -> str:
        spec = Prepare(
            dataset=dataset.label,
            fingerprint=self.facts.datasets[dataset.label].fingerprints[split],
            split=split,
            limit=limit,
            seed=0 if limit is None else self.manifest.seed,
            preprocessing=self.facts_of(model, BASELINE).preprocessing,
            held_out=held_out,
        )
        count = f", {limit} images" if limit else ", held out" if held_out is not None else ""
        return self._add(f"{dataset.label} {split}{count}", ORCHESTRATOR, spec, {}, (0, 0), self.versions)

    @once
    def checkpoint(self, model: Model, dataset: Dataset, steps: tuple[Any, ...]) -> str:
        """The step whose checkpoint is the model after `steps`, none of which quantizes; empty for an ONNX file."""
        if self._is_file(model):
            return ""
        return self._compress(model, dataset, steps, steps[-1:], ())

    @once
    def variant(self, model: Model, dataset: Dataset, recipe: Recipe, target: Target) -> str:
        """The step that exports a recipe's artifact in the target's form; targets with the same form share it."""
        quantize = tuple(step for step in recipe.steps if step.kind == "quantize")
        facts = self.facts_of(model, recipe)
        form = self.facts.targets[target.name].form(facts.precision, facts.forms)
        return self._compress(model, dataset, recipe.steps, quantize, (form,) if form else ())

    @once
    def _compress(
        self, model: Model, dataset: Dataset, steps: tuple[Any, ...], now: tuple[Any, ...], forms: tuple[str, ...]
    ) -> str:
        """Apply `now`, the end of `steps`, to the checkpoint of what comes before, and export `forms`."""
        recipe = Recipe.model_construct(steps=steps)
        facts = self.facts_of(model, recipe)
        before = steps[: len(steps) - len(now)]
        has_training = "train" in self.facts.datasets[dataset.label].fingerprints
        needs = {"verification": self.prepare(model, dataset, "test", self.manifest.verification_images)}
        is_first = not steps and not forms  # loads, or trains, the model; all else starts from its checkpoint
        if not is_first and (parent := self.checkpoint(model, dataset, before)):
            needs["checkpoint"] = parent
        if facts.takes_training(len(before), has_training) or (is_first and facts.trains):
            needs["training"] = self.prepare(model, dataset, "train", dataset.train_images)
        if any(facts.needs_baseline[len(before) :]):
            needs["baseline"] = self.checkpoint(model, dataset, ())
        spec = Compress(
            model=self.facts.models[model.label],
            steps=tuple(json_format.MessageToDict(step_message(step)) for step in now),
            forms=forms,
            seed=self.manifest.seed,
        )
        done = recipe.label if not forms else f"{recipe.label} -> {', '.join(f.removeprefix('FORM_') for f in forms)}"
        versions = self.facts.compressors[facts.compressor].versions
        return self._add(f"{model.label}: {done}", facts.compressor, spec, needs, (1, 0), versions)

    @once
    def build(
        self, model: Model, dataset: Dataset, recipe: Recipe, target: Target, batch_size: int, replicate: int = 0
    ) -> str:
        facts, runtime = self.facts_of(model, recipe), self.facts.targets[target.name]
        spec = Build(
            backend=target.backend,
            options=runtime.options_json,
            form=runtime.form(facts.precision, facts.forms),
            batch_size=batch_size,
            preprocessing=facts.preprocessing,
            replicate=replicate,
        )
        needs = {"variant": self.variant(model, dataset, recipe, target)}
        label = f"{model.label}: {recipe.label}, batch {batch_size}" + (f", build {replicate}" if replicate else "")
        device = f"for {runtime.built_for}" if runtime.built_for else runtime.device
        return self._on_target(label, target, spec, needs, 0, device=device)

    @once
    def verify(self, model: Model, dataset: Dataset, recipe: Recipe, target: Target, batch_size: int) -> str:
        """The step that compares an engine's outputs with those of the model itself."""
        needs = {
            "build": self.build(model, dataset, recipe, target, batch_size),
            "variant": self.variant(model, dataset, recipe, target),
            "inputs": self.prepare(model, dataset, "test", self.manifest.verification_images),
        }
        label = f"{model.label}: {recipe.label}, batch {batch_size}"
        return self._on_target(label, target, Verify(is_baseline=not recipe.steps), needs, 1)

    @once
    def try_artifact(self, model: Model, dataset: Dataset, recipe: Recipe, target: Target) -> str:
        """The step that loads the artifact with the runtime's defaults; empty where none is wanted."""
        if self.cheap or not self.manifest.try_artifacts:
            return ""
        facts, runtime = self.facts_of(model, recipe), self.facts.targets[target.name]
        fixed = self.facts_of(model, BASELINE).fixed_batch
        spec = TryArtifact(
            backend=target.backend,
            form=runtime.form(facts.precision, facts.forms),
            batch_sizes=(fixed,) if fixed else TRIED_BATCHES,
            preprocessing=facts.preprocessing,
        )
        needs = {
            "variant": self.variant(model, dataset, recipe, target),
            "inputs": self.prepare(model, dataset, "test", self.manifest.verification_images),
            "fidelity": self.verify(model, dataset, recipe, target, self._largest_batch(model)),
        }
        return self._on_target(f"{model.label}: {recipe.label}", target, spec, needs, 1)

    @once
    def held_out_score(self, model: Model, dataset: Dataset, recipe: Recipe, target: Target) -> str:
        """The step that scores training images that no other step saw; empty unless recipes are chosen on them."""
        data = self.facts.datasets[dataset.label]
        if self.selection(model, dataset) != "held-out":
            return ""
        inputs = self.prepare(model, dataset, "train", dataset.train_images, self.manifest.seed)

        def predict(of: Recipe) -> str:
            build = self.build(model, dataset, of, target, self._largest_batch(model))
            label = f"{model.label}: {of.label} on {dataset.label}, held out"
            return self._on_target(label, target, Predict(), {"build": build, "inputs": inputs}, 1)

        needs = {"predict": predict(recipe), "baseline": predict(BASELINE), "inputs": inputs}
        spec = Score(
            dataset=dataset.label,
            fingerprint=data.fingerprints["train"],
            is_labelled=True,
            metrics=("top1",),
        )
        label = f"{model.label}: {recipe.label} on {dataset.label}, held out"
        return self._add(label, ORCHESTRATOR, spec, needs, (self._rank(target), 3), self.versions)

    @once
    def predict(self, model: Model, dataset: Dataset, recipe: Recipe, target: Target) -> str:
        needs = {
            "build": self.build(model, dataset, recipe, target, self._largest_batch(model)),
            "inputs": self.prepare(model, dataset, "test", dataset.test_images),
        }
        stop_early, limits = None, self.manifest.early_stopping
        if limits is not None and recipe.steps and not self._unlabelled(dataset):
            stop_early = StopEarly(dataset=dataset.label, max_drop=limits.max_drop, margin=limits.margin)
            needs["baseline"] = self.predict(model, dataset, BASELINE, target)
        # Baselines are predicted first: where scoring may stop early, the variant is compared with its baseline.
        order = 2 if stop_early else 1
        label = f"{model.label}: {recipe.label} on {dataset.label}"
        return self._on_target(label, target, Predict(stop_early=stop_early), needs, order)

    @once
    def selection(self, model: Model, dataset: Dataset) -> str:
        """On which images recipes are chosen: "held-out", "half" or "whole".

        Pretrained weights may have seen the training images, so "auto" is "held-out" only for weights that pqbench
        trains. Without labelled training images, "held-out" becomes "half".
        """
        data, wanted = self.facts.datasets[dataset.label], self.manifest.selection
        if wanted == "auto":
            wanted = "held-out" if self.facts_of(model, BASELINE).trains else "half"
        has_held_out = "train" in data.fingerprints and "train" not in data.unlabelled
        return wanted if wanted != "held-out" or has_held_out else "half"

    def _largest_batch(self, model: Model) -> int:
        """The batch size of the engine that accuracy is scored with: one pass serves all batch sizes."""
        return self.facts_of(model, BASELINE).fixed_batch or max(self.manifest.batch_sizes)

    def _unlabelled(self, dataset: Dataset) -> bool:
        return "test" in self.facts.datasets[dataset.label].unlabelled

    def score(self, model: Model, dataset: Dataset, recipe: Recipe, target: Target, predict: str) -> str:
        spec = Score(
            dataset=dataset.label,
            fingerprint=self.facts.datasets[dataset.label].fingerprints["test"],
            is_labelled=not self._unlabelled(dataset),
            metrics=self.manifest.metrics,
        )
        needs = {
            "predict": predict,
            "baseline": self.predict(model, dataset, BASELINE, target),
            "inputs": self.prepare(model, dataset, "test", dataset.test_images),
        }
        label = f"{model.label}: {recipe.label} on {dataset.label}"
        stage = (self._rank(target), 3)
        return self._add(label, ORCHESTRATOR, spec, needs, stage, self.versions)

    def _measure(
        self,
        model: Model,
        dataset: Dataset,
        recipe: Recipe,
        target: Target,
        load: Load,
        repeat: int,
        replicate: int,
    ) -> str:
        chosen = self.manifest.measure
        spec = Measure(target=target.name, settings=self._settings(load), run_name=self.run, repeat=repeat)
        needs = {
            "build": self.build(model, dataset, recipe, target, load.batch_size, replicate),
            "inputs": self.prepare(model, dataset, "test", dataset.test_images),
        }
        if recipe.steps and chosen.paired and chosen.scenario != "server":
            needs["baseline"] = self.build(model, dataset, BASELINE, target, load.batch_size)
        notes = [f"batch {load.batch_size}", *([f"concurrency {load.concurrency}"] if load.concurrency > 1 else [])]
        notes += [f"{what} {n}" for what, n in (("repeat", repeat), ("build", replicate)) if n]
        label = f"{model.label}: {recipe.label}, {', '.join(notes)}"
        return self._on_target(label, target, spec, needs, 4, repeat)

    def _settings(self, load: Load) -> dict[str, Any]:
        """The fields of the message MeasureSettings."""
        chosen = self.manifest.measure.model_dump(exclude={"paired", "profile_seconds"}, exclude_none=True)
        chosen["scenario"] = f"SCENARIO_{chosen['scenario'].replace('-', '_').upper()}"
        return chosen | {"concurrency": load.concurrency, "seed": self.manifest.seed}

    @once
    def _profile(self, model: Model, dataset: Dataset, recipe: Recipe, target: Target, batch_size: int) -> str:
        spec = Profile(target=target.name, seconds=self.manifest.measure.profile_seconds, run_name=self.run)
        needs = {
            "build": self.build(model, dataset, recipe, target, batch_size),
            "inputs": self.prepare(model, dataset, "test", dataset.test_images),
        }
        label = f"{model.label}: {recipe.label}, batch {batch_size}"
        return self._on_target(label, target, spec, needs, 5)

    def _on_target(
        self,
        label: str,
        target: Target,
        spec: Spec,
        needs: dict[str, str],
        order: int,
        repeat: int = 0,
        device: str | None = None,
    ) -> str:
        """Add a step on a target; its result is that of the target's `device` unless another is given."""
        runtime, rank = self.facts.targets[target.name], self._rank(target)
        # Repeats are sessions, in which the order of the targets alternates: A B, B A, A B. So a drift of the machine
        # affects all targets alike.
        stage = (LATER + repeat, rank if repeat % 2 == 0 else -rank) if repeat else (rank, order)
        tools = runtime.versions | {"device": runtime.device if device is None else device}
        return self._add(label, of_target(target.name), spec, needs, stage, tools)

    def _add(
        self, label: str, place: str, spec: Spec, needs: dict[str, str], stage: tuple[int, ...], tools: dict[str, str]
    ) -> str:
        key = key_of(spec, needs, tools)
        step = Step(key=key, label=label, place=place, spec=spec, needs=needs, stage=stage)
        if key not in self.steps or stage < self.steps[key].stage:  # equal targets share a step: the first one does it
            self.steps[key] = step
        return key

    def facts_of(self, model: Model, recipe: Recipe) -> RecipeFacts:
        return self.facts.recipes[model.label, self._identity(recipe.steps)]

    def _identity(self, steps: tuple[recipes.Step, ...]) -> str:
        """`Recipe.identity`, in which each step is written once."""
        return f"[{', '.join(map(self._text, steps))}]"

    def _text(self, step: recipes.Step) -> str:
        if id(step) not in self._texts:
            self._texts[id(step)] = step, recipes.as_json(step)  # the step is kept: its id stays its own
        return self._texts[id(step)][1]

    def _is_file(self, model: Model) -> bool:
        return not self.facts_of(model, BASELINE).has_module

    def _rank(self, target: Target) -> int:
        return self._ranks[target.name]

    @functools.cached_property
    def _ranks(self) -> dict[str, int]:
        return {target.name: rank for rank, target in enumerate(self.manifest.targets, 2)}
