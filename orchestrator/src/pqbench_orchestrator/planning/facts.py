"""Facts: what the plan knows of models, recipes, targets and data. All immutable."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pqbench_orchestrator.config.recipes import Recipe
from pqbench_orchestrator.planning.places import COMPRESSOR


@dataclass(frozen=True, kw_only=True)
class RecipeFacts:
    """What the compressor says of a recipe on a model."""

    refused: str = ""
    unavailable: str = ""
    compressor: str = COMPRESSOR  # which one has the plug-ins
    preprocessing: dict[str, Any] = field(default_factory=dict)
    trains: bool = False
    precision: str = ""  # name in Precision
    forms: tuple[str, ...] = ()  # names in Form
    needs_training: tuple[bool, ...] = ()  # of each step
    needs_baseline: tuple[bool, ...] = ()
    needs_labels: tuple[bool, ...] = ()
    uses_training: tuple[bool, ...] = ()  # where there is a training split
    classes: int = 0  # outputs of the classifier; 0: not known
    fixed_batch: int = 0  # the only batch size that the model takes; 0: any
    notes: tuple[str, ...] = ()  # what the manifest's author should know
    unchecked: bool = False  # checking did not end
    has_module: bool = True  # checkpoints of it can be kept; else it is a file that can only be quantized

    @property
    def inputs(self) -> dict[str, str]:
        """Name -> type and shape of what the model takes; empty: an image."""
        return {
            one["name"]: kind_of(one["dtype"], one.get("shape", ())) for one in self.preprocessing.get("inputs", ())
        }


@dataclass(frozen=True, kw_only=True)
class TargetFacts:
    """What a runtime says of its backend."""

    backend: str = ""
    unavailable: str = ""
    options_json: str = "{}"  # with every default filled in
    routes: dict[str, tuple[str, ...]] = field(default_factory=dict)  # precision name -> form names, best first

    def form(self, precision: str, available: tuple[str, ...]) -> str:
        """The form in which this target runs a precision, out of those that are made; empty if none."""
        return next((form for form in self.routes.get(precision, ()) if form in available), "")

    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""
    timed_options: tuple[str, ...] = ()  # that change what is timed
    engine_file: str = ""  # what an engine's file is called in a bundle
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """What the data are."""

    fingerprints: dict[str, str]  # split -> digest
    inputs: dict[str, str] = field(default_factory=dict)  # name -> type and shape; empty: images
    unlabelled: tuple[str, ...] = ()  # splits without labels
    labels: int = 0  # the model needs at least so many outputs: one more than the largest label, or mapped output
    classes: int = 0  # that are scored
    scores_all: bool = False  # all outputs of a model, not only those of the classes
    notes: tuple[str, ...] = ()  # what the manifest's author should know, such as files that were skipped


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Facts, all immutable; the plan is a pure function of them and the manifest."""

    models: dict[str, dict[str, Any]]  # label -> compressor Model as JSON
    recipes: dict[tuple[str, str], RecipeFacts]  # (model label, recipe identity), beginnings of recipes too
    targets: dict[str, TargetFacts]
    datasets: dict[str, DatasetFacts]
    compressor_versions: dict[str, dict[str, str]]  # of each compressor

    @property
    def notes(self) -> list[str]:
        """What the manifest's author should know, each said once."""
        notes = [f"model {label}: {note}" for (label, _), facts in self.recipes.items() for note in facts.notes]
        for (label, identity), facts in self.recipes.items():
            for dataset, data in self.datasets.items():
                if identity == Recipe().identity and 0 < data.classes < facts.classes and data.scores_all:
                    notes.append(
                        f"model {label} has {facts.classes} outputs, dataset {dataset} {data.classes} classes and no "
                        "map from classes to outputs: an image is right where its label's output is largest"
                    )
        notes += [f"dataset {label}: {note}" for label, facts in self.datasets.items() for note in facts.notes]
        return list(dict.fromkeys(notes))


def kind_of(dtype: object, shape: Iterable[object]) -> str:
    """Type and shape of an input, as "float32 [3, 8]"."""
    return f"{dtype} [{', '.join(str(size) for size in shape)}]"
