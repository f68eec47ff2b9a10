"""Facts: what the plan knows about models, recipes, targets and datasets. All are immutable."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pqbench_orchestrator.config.recipes import Recipe
from pqbench_orchestrator.planning.places import COMPRESSOR


@dataclass(frozen=True, kw_only=True)
class RecipeFacts:
    """What the compressor reports about a recipe on a model."""

    refused: str = ""  # why the recipe cannot run on the model
    unavailable: str = ""  # why no compressor could answer
    compressor: str = COMPRESSOR  # the place of the compressor that has the plug-ins
    preprocessing: dict[str, Any] = field(default_factory=dict)
    trains: bool = False  # the default weights come from training on the dataset
    precision: str = ""  # name in Precision
    forms: tuple[str, ...] = ()  # names in Form: those that the result can be exported to
    withheld: str = ""  # why some of the quantizer's forms are not among them
    needs_training: tuple[bool, ...] = ()  # for each step: whether it needs training images
    needs_baseline: tuple[bool, ...] = ()  # for each step: whether it needs the unpruned model
    needs_labels: tuple[bool, ...] = ()  # for each step: whether it needs labels of the training images
    uses_training: tuple[bool, ...] = ()  # for each step: whether it uses training images if there are any
    classes: int = 0  # outputs of the classifier; 0: not known
    fixed_batch: int = 0  # the only batch size that the model takes; 0: any
    notes: tuple[str, ...] = ()  # notes for the manifest's author
    unchecked: bool = False  # the check timed out
    has_module: bool = True  # a PyTorch module, which has checkpoints; False: a file that can only be quantized

    @property
    def inputs(self) -> dict[str, str]:
        """Name -> type and shape of each input of a model that takes no image; empty for a model that takes one."""
        return {
            one["name"]: kind_of(one["dtype"], one.get("shape", ())) for one in self.preprocessing.get("inputs", ())
        }

    def takes_training(self, first: int, has_training: bool) -> bool:
        """Whether a step from index `first` on needs training images or, where there are any, uses them."""
        return any(self.needs_training[first:]) or (has_training and any(self.uses_training[first:]))


@dataclass(frozen=True, kw_only=True)
class TargetFacts:
    """What a runtime reports about a target's backend with its options."""

    backend: str = ""
    unavailable: str = ""  # why the target cannot be used
    options_json: str = "{}"  # with every default filled in
    routes: dict[str, tuple[str, ...]] = field(default_factory=dict)  # precision name -> form names, best first

    def form(self, precision: str, available: tuple[str, ...]) -> str:
        """The best form of those `available` in which this target runs a precision; empty if there is none."""
        return next((form for form in self.routes.get(precision, ()) if form in available), "")

    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""
    refused: dict[str, str] = field(default_factory=dict)  # precision name -> why it cannot be built
    lacks_device: str = ""  # why engines can be built here, but not run
    built_for: str = ""  # what engines are built for ahead of time; empty: for the device
    timed_options: tuple[str, ...] = ()  # names of the options that change what is timed
    engine_file: str = ""  # name of the engine's file in an exported bundle
    scripts: dict[str, str] = field(
        default_factory=dict
    )  # way of loading an artifact -> code for a bundle's predict.py
    environment: dict[str, str] = field(default_factory=dict)
    bill_of_materials: bytes = b""  # of the service: CycloneDX, JSON


@dataclass(frozen=True, kw_only=True)
class CompressorFacts:
    """What the plan knows about a compressor."""

    versions: dict[str, str] = field(default_factory=dict)  # of its tools; empty if it cannot be reached
    bill_of_materials: bytes = b""


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """What the plan knows about a dataset."""

    fingerprints: dict[str, str]  # split -> digest
    inputs: dict[str, str] = field(default_factory=dict)  # name -> type and shape; empty: images
    unlabelled: tuple[str, ...] = ()  # splits without labels
    labels: int = 0  # outputs that a model needs at least: one more than the largest label, or mapped output
    class_names: tuple[str, ...] = ()
    outputs: tuple[int, ...] | None = None  # the model's output of each class; None: class i is output i
    scores_all: bool = False  # scoring looks at all outputs of a model, as no map names those of the classes
    notes: tuple[str, ...] = ()  # notes for the manifest's author, such as files that were skipped

    @property
    def classes(self) -> int:
        """The number of the dataset's classes."""
        return len(self.class_names)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """All facts from which, together with the manifest, the plan is made."""

    models: dict[str, dict[str, Any]]  # label -> the compressor's message Model as JSON
    recipes: dict[tuple[str, str], RecipeFacts]  # by model label and recipe identity; also for beginnings of recipes
    targets: dict[str, TargetFacts]  # by name
    datasets: dict[str, DatasetFacts]  # by label
    compressors: dict[str, CompressorFacts]  # by place

    @property
    def notes(self) -> list[str]:
        """Notes for the manifest's author, without repetitions."""
        notes = [f"model {label}: {note}" for (label, _), facts in self.recipes.items() for note in facts.notes]
        for (label, identity), facts in self.recipes.items():
            for dataset, data in self.datasets.items():
                if identity == Recipe().identity and 0 < data.classes < facts.classes and data.scores_all:
                    notes.append(
                        f"model {label} has {facts.classes} outputs, dataset {dataset} {data.classes} classes and no "
                        "map from classes to outputs: an image counts as correct if its label's output is the largest"
                    )
        notes += [f"dataset {label}: {note}" for label, facts in self.datasets.items() for note in facts.notes]
        return list(dict.fromkeys(notes))


def kind_of(dtype: object, shape: Iterable[object]) -> str:
    """Type and shape of an input, as "float32 [3, 8]"."""
    return f"{dtype} [{', '.join(str(size) for size in shape)}]"
