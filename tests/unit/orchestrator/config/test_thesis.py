"""The thesis' config.ini as a manifest, and its CSV."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pqbench.common.v1.common_pb2 import Form, Plugin, Precision
from pqbench.runtime.v1.runtime_pb2 import Backend, Route
from pqbench_orchestrator.commands.thesis_target import choose, thesis_target
from pqbench_orchestrator.config.thesis import load_ini
from pqbench_orchestrator.output.thesis_csv import write_experiment
from pqbench_wire.errors import InvalidInput

from ..cells import table

CONFIG = (Path(__file__).parents[3] / "data/config.ini").read_text()


def test_the_grid_is_the_thesis_grid(tmp_path: Path) -> None:
    path = tmp_path / "config.ini"
    path.write_text(CONFIG)
    manifest = load_ini(path)
    assert [m.model for m in manifest.models] == ["alexnet"]
    assert [d.dataset for d in manifest.datasets] == ["imagenette"]
    assert manifest.batch_sizes == (8, 16) and manifest.repeats == 3
    names = [recipe.label for recipe in manifest.recipes]
    assert names[:5] == [
        "unpruned",
        "unpruned + int8",
        "unpruned + base",
        "lnstructured 0.1",
        "lnstructured 0.1 + int8",
    ]
    assert len(names) == (1 + 2 * 2) * 3
    by_name = {recipe.label: recipe for recipe in manifest.recipes}
    assert by_name["unpruned + base"].steps == () and by_name["unpruned + base"].targets == ("onnxruntime",)
    assert by_name["unpruned"].targets == ("pytorch",)
    assert by_name["lnstructured 0.9"].steps[0].config == {"amount": 0.9, "dim": 1, "n": 2}
    removal = by_name["removal-sensitivity 0.1 + int8"].steps
    assert (removal[0].method, removal[0].config["criterion"]) == ("removal", "sensitivity")
    assert removal[1].method == "int8-static"


def backend(name: str, available: bool, implicit: bool = False) -> Backend:
    """A backend as a runtime tells of it, with or without a route for ranges that it calibrates itself."""
    form = Form.FORM_ONNX_UNTYPED if implicit else Form.FORM_QDQ_SIGNED
    route = Route(precision=Precision.PRECISION_INT8, form=form)
    return Backend(plugin=Plugin(name=name, available=available), routes=[route])


CPU = backend("onnxruntime", True)


@pytest.mark.parametrize(
    ("name", "found", "runs_on", "int8"),
    [
        ("best", [CPU], ("pytorch", "onnxruntime"), "int8-static"),
        ("best", [], ("pytorch", "onnxruntime"), "int8-static"),
        ("best", [CPU, backend("tensorrt", False, True), backend("onnxruntime-cuda", True)],
         ("pytorch-cuda", "onnxruntime-cuda"), "int8-static"),
        ("best", [CPU, backend("tensorrt", True, True), backend("onnxruntime-cuda", True)],
         ("pytorch-cuda", "tensorrt"), "int8-implicit"),
        ("best", [CPU, backend("tensorrt", True)], ("pytorch-cuda", "tensorrt"), "int8-static"),
        ("best", [CPU, backend("tensorrt", True), backend("pytorch-cuda", False)], ("pytorch", "tensorrt"), "int8-static"),
        ("onnxruntime-tensorrt", [CPU, backend("onnxruntime-tensorrt", True, True)],
         ("pytorch-cuda", "onnxruntime-tensorrt"), "int8-implicit"),
    ],
)  # fmt: skip
def test_the_best_target_of_a_machine_is_taken(
    name: str, found: list[Backend], runs_on: tuple[str, str], int8: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.ini"
    path.write_text(CONFIG)
    manifest = load_ini(path, thesis_target(name, found))
    assert tuple(target.backend for target in manifest.targets) == runs_on
    by_name = {recipe.label: recipe for recipe in manifest.recipes}
    assert by_name["unpruned + int8"].steps[0].method == int8
    assert by_name["unpruned + int8"].targets == (runs_on[1],) and by_name["unpruned"].targets == ("pytorch",)


def test_a_wrong_target_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"--thesis-target: unknown target 'tensort'; did you mean 'tensorrt'\?"):
        choose("tensort", tmp_path / "config.ini", has_inventory=False)
    with pytest.raises(InvalidInput, match=r"m\.yaml is a manifest, which names its targets itself"):
        choose("tensorrt", tmp_path / "m.yaml", has_inventory=False)
    assert choose("best", tmp_path / "config.ini", has_inventory=True).backend == "onnxruntime"


def test_the_csv_has_the_thesis_columns_and_no_other(tmp_path: Path) -> None:
    rows = [{"Model": "alexnet", "Recipe": recipe, "Accuracy": 98.3, "Pruner": "x", "Outcome": "ok"}
            for recipe in ("unpruned", "unpruned + base", "l1unstructuredglobal 0.9 + int8")]  # fmt: skip
    path = write_experiment(table(rows), tmp_path, 0.0)
    assert path.name.startswith("Experiment_19") and path.suffix == ".csv"
    with path.open() as file:
        made = list(csv.DictReader(file))
    assert list(made[0]) == [
        "Model", "Pruner", "Quantizer", "Dataset", "Amount", "Accuracy", "Inference Time (ms)", "Original Size",
        "Compressed Size", "Batch Size", "Prep Time (s)",
    ]  # fmt: skip
    assert [(r["Pruner"], r["Quantizer"]) for r in made] == [
        ("-", "-"), ("-", "base"), ("l1unstructuredglobal", "int8"),
    ]  # fmt: skip


def test_a_missing_value_names_file_section_and_key(tmp_path: Path) -> None:
    path = tmp_path / "config.ini"
    path.write_text(CONFIG.replace("iterations = 3", ""))
    with pytest.raises(InvalidInput, match=r"config\.ini: PARAMETERS: iterations is missing"):
        load_ini(path)
