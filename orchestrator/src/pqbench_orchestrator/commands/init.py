"""`pqbench init`: a commented manifest that runs, from a few choices, or from the thesis' config.ini."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pqbench_orchestrator.commands.plugins import backends, listing
from pqbench_orchestrator.config.load import load_manifest, read_experiment
from pqbench_orchestrator.config.manifest import dump
from pqbench_orchestrator.config.thesis import is_thesis_config
from pqbench_orchestrator.dataset import DATASETS
from pqbench_wire.catalog import unknown
from pqbench_wire.errors import InvalidInput

GOALS = ("latency", "size", "accuracy")
SCORED = ("test", "val", "valid", "validation")  # names of a folder of images to score on
INT8 = "  - {name: int8, steps: [{quantize: {method: int8-static, images: 256}}]}"
CAREFUL = "  - {name: int8 careful, steps: [{quantize: {method: int8-static, images: 256, max_drop: 0.5}}]}"
FP16 = "  - {name: fp16, steps: [{quantize: {method: fp16}}]}"
INT4 = "  - {name: int4 weights, steps: [{quantize: {method: int4-weights}}]}"
PRUNED = """\
  - name: removal
    steps:                        # channels are removed, then batch norms are set anew on training images
      - prune: {method: removal, target: macs, amount: [0.2, 0.4]}
      - recalibrate: {images: 256}
  - name: removal + int8
    steps:
      - prune: {method: removal, target: macs, amount: [0.2, 0.4]}
      - recalibrate: {images: 256}
      - quantize: {method: int8-static, images: 256}"""
RECIPES = {
    "latency": (FP16, INT8, PRUNED),
    "size": (INT8, INT4, PRUNED),
    "accuracy": (FP16, INT8, CAREFUL),
}
ON_FILES = (FP16, INT8, CAREFUL, INT4)  # an ONNX file can only be quantized


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a user chooses."""

    model: str  # a name, file.py:function or file.onnx
    dataset: str  # a name, a folder with one sub-folder for each class, or file.py:function
    targets: Sequence[str]  # backends
    goal: str = "latency"
    weights: str = ""
    max_drop: float = 1.0
    batch_sizes: Sequence[int] = (1, 8)
    image_size: int = 224  # height and width of the input of a model in a file


def from_ini(file: Path) -> str:
    """The manifest of a config.ini of the thesis. Raises InvalidInput."""
    if not is_thesis_config(file):
        raise InvalidInput(f"--from: {file} is no config.ini of the thesis")
    head = f"# The experiment of {file.name}, a configuration of the thesis tool PQ Bench, as a manifest of pqbench."
    return f"{head}\n{dump(read_experiment(file), defaults=False)}"


def check(choices: Choices) -> None:
    """Raise InvalidInput for a file that is not there and a name that pqbench does not know."""
    for option, path in (("--model", choices.model), ("--dataset", choices.dataset)):
        file = f"{path.partition('.py:')[0]}.py" if ".py:" in path else path
        if file.endswith((".py", ".onnx")) and not Path(file).is_file():
            raise InvalidInput(f"{option}: there is no file {file}")
        if path.endswith(".py"):
            raise InvalidInput(f"{option}: name the function too, as {path}:function")
    if choices.weights not in ("", "default", "none") and not Path(choices.weights).is_file():
        raise InvalidInput(f"--weights: there is no file {choices.weights}")
    if ".py:" not in choices.dataset and not Path(choices.dataset).is_dir():
        _check_known("--dataset", "dataset", choices.dataset, DATASETS.names, "; nor is there such a folder")
    if choices.targets:
        known = [plugin.name for plugin in backends()]
        for name in choices.targets:
            _check_known("--target", "backend", name, known)
    if not choices.model.endswith(".onnx") and ".py:" not in choices.model:
        _check_known("--model", "model", choices.model, [str(one["name"]) for one in listing("models")])


def _check_known(option: str, kind: str, name: str, known: Sequence[str], more: str = "") -> None:
    if name not in known:
        raise InvalidInput(f"{option}: {unknown(kind, name, list(known))}{more}")


def text_of(choices: Choices, folder: Path) -> str:
    """The manifest as commented YAML, for a file in `folder`. Raises InvalidInput for an unknown goal."""
    if choices.goal not in GOALS:
        raise InvalidInput(f"--goal: {unknown('goal', choices.goal, GOALS)}")
    is_file = choices.model.endswith(".onnx")
    recipes = "\n".join(ON_FILES if is_file else RECIPES[choices.goal])
    minimize = "size" if choices.goal == "size" else "latency"
    targets = "\n".join(f"  - {{name: {name}, backend: {name}}}" for name in choices.targets)
    return f"""\
# An experiment of pqbench. What it would do: pqbench plan FILE. All keys: docs/manifest.md.
name: {_name(choices.model)}

models:
{_model(choices, folder)}
datasets:
{_dataset(choices.dataset, folder)}
# Each recipe is compared with the uncompressed model, which is always measured too.
recipes:
  - {{name: baseline}}
{recipes}
# Where engines are built and timed; options such as {{threads: 2}}: pqbench list backends --json.
targets:
{targets}
batch_sizes: {list(choices.batch_sizes)}
# What is recommended: the recipe with the least {minimize} that loses at most so many points of accuracy.
goal: {{minimize: {minimize}, max_drop: {choices.max_drop:g}}}
"""


def write(text: str, out: Path) -> None:
    """Write a manifest to a new file. Raises InvalidInput where there is one already, or where it would not load."""
    if out.exists():
        raise InvalidInput(f"{out} exists: name another file with --out")
    partial = out.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    try:
        load_manifest(partial)
        partial.replace(out)
    except InvalidInput as error:
        raise InvalidInput(str(error).replace(str(partial), str(out))) from error
    finally:
        partial.unlink(missing_ok=True)


def _name(model: str) -> str:
    stem = model.rpartition(":")[2] if ".py:" in model else Path(model).stem
    return "".join(character if character.isalnum() or character in "-_" else "-" for character in stem) or "experiment"


def _model(choices: Choices, folder: Path) -> str:
    lines = [f"  - model: {_quoted(_from(choices.model, folder))}"]
    if choices.weights:
        lines.append(f"    weights: {_quoted(_from(choices.weights, folder))}")
    if ".py:" in choices.model or choices.model.endswith(".onnx"):
        lines.append(
            "    # How an image becomes the model's input; mean and std are ImageNet's: check them.\n"
            f"    preprocessing: {{height: {choices.image_size}, width: {choices.image_size}, "
            "mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}"
        )
    return "\n".join(lines)


def _dataset(dataset: str, folder: Path) -> str:
    path = Path(dataset)
    if ".py:" in dataset or not path.is_dir():
        return f"  - dataset: {_quoted(_from(dataset, folder))}"
    train = path / "train" if (path / "train").is_dir() else None
    test = next((path / name for name in SCORED if (path / name).is_dir()), None)
    if test is None and train is not None:
        raise InvalidInput(f"--dataset: {path} has a folder train and no test, val, valid or validation to score on")
    if test is None:
        return (
            "  # One folder of images for each class. INT8 and pruning need training images too: add train: FOLDER.\n"
            f"  - {{dataset: folder, config: {{test: {_quoted(_from(dataset, folder))}}}}}"
        )
    parts = {"train": train, "test": test}
    config = ", ".join(f"{name}: {_quoted(_from(str(one), folder))}" for name, one in parts.items() if one is not None)
    return f"  - {{dataset: folder, config: {{{config}}}}}"


def _from(path: str, folder: Path) -> str:
    """A path as a manifest in `folder` names it: relative to it inside, else absolute; other names stay as they are."""
    file, is_python, function = path.partition(".py:")
    known = Path(f"{file}.py" if is_python else path).resolve()
    if not known.exists():
        return path
    shown = known.relative_to(folder.resolve()) if known.is_relative_to(folder.resolve()) else known
    return f"{shown}:{function}" if is_python else str(shown)


def _quoted(value: str) -> str:
    """A text as YAML that is the same in blocks and in flow mappings."""
    return json.dumps(value, ensure_ascii=False)
