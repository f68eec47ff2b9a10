"""The search: its space, its walk along the amounts, and what it tries in full."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pqbench_orchestrator.config.latencies import needs_times, quantizations, with_latencies
from pqbench_orchestrator.config.manifest import Manifest
from pqbench_orchestrator.config.recipes import Recipe
from pqbench_orchestrator.decide.layer_times import profiling
from pqbench_orchestrator.decide.search import Search, space_of
from pqbench_orchestrator.results.cell import CellResult
from pqbench_orchestrator.store.run_folder import STUDY, TRIALS, RunFolder
from pqbench_wire.errors import InvalidInput

from ..cells import cell

AMOUNTS = [round(0.1 * n, 1) for n in range(1, 10)]


def manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "name": "s",
        "models": [{"model": "digits/resnet"}],
        "datasets": [{"dataset": "digits"}],
        "recipes": [
            {"name": "baseline"},
            {"name": "l1", "steps": [{"prune": {"method": "l1-global", "amount": AMOUNTS}}]},
            {"name": "removal", "steps": [{"prune": {"method": "removal", "amount": AMOUNTS}}]},
        ],
        "targets": [{"name": "t", "backend": "onnxruntime"}],
        "goal": {"max_drop": 1.0},
        "search": {"promoted": 2},
    }
    return Manifest.model_validate(values | changes)


def test_the_space_has_the_entries_with_steps_by_rising_amount() -> None:
    space = space_of(manifest())
    assert list(space.families) == ["l1", "removal"] and space.size == 18
    assert [recipe.steps[0].config["amount"] for recipe in space.families["removal"]] == AMOUNTS


@pytest.mark.parametrize(
    ("changes", "problem"),
    [({"batch_sizes": [1, 8]}, "one combination: batch_sizes must have one entry, not 2"),
     ({"recipes": [{"steps": [{"prune": {"method": "removal", "amount": 0.1, "latencies": "measured"}}]}]},
      r"recipes.0 \(removal 0.1\): latencies: measured needs target: latency"),
     ({"recipes": [{"name": "baseline"}]}, "needs recipes with steps")],
)  # fmt: skip
def test_what_is_no_question_is_one_clear_line(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        space_of(manifest(**changes))


def test_layers_are_measured_as_the_recipes_that_need_their_times_are_quantized() -> None:
    """Each quantization once, beside all recipes, which are checked with multiply-accumulates in place of times."""
    removal = {"prune": {"method": "removal", "amount": [0.1, 0.2], "target": "latency", "latencies": "measured"}}
    int8, other = {"quantize": "int8-static"}, {"quantize": {"method": "int8-static", "ranges": "mse"}}
    recipes = [{"steps": steps} for steps in ([removal, int8], [removal, removal, int8], [removal], [other])]
    chosen = manifest(recipes=recipes)
    changed = profiling(chosen)
    assert list(quantizations(chosen)) == ["quantize int8-static", "no step"]
    assert not any(map(needs_times, changed.recipes))
    assert [recipe.steps[1:] for recipe in changed.recipes[4:]] == [one.steps for one in quantizations(chosen).values()]
    assert changed.recipes[0].steps[0].config["target"] == "macs" and changed.recipes[3] == chosen.recipes[3]
    assert len(changed.recipes[4].expanded()) == 24 and changed.measure.profile_seconds >= 0.3


@pytest.mark.parametrize(
    "quantize",
    [
        {"method": "int8-static", "keep": ["/features/0/é", "x" * 200]},
        {"method": "none"},
        {"method": "folder/q.py:Own"},
    ],
)
def test_any_quantization_may_have_its_layers_measured(quantize: dict[str, Any]) -> None:
    removal = {"prune": {"method": "removal", "amount": 0.1, "target": "latency", "latencies": "measured"}}
    chosen = manifest(recipes=[{"steps": [removal, {"quantize": quantize}]}])
    assert len(profiling(chosen).all_recipes) == 25
    measured = with_latencies(chosen, {definition: {"stem": 1.0} for definition in quantizations(chosen)})
    assert measured.all_recipes[0].steps[0].config["latencies"] == {"stem": 1.0}


class Landscape(Search):
    """A search over a made-up truth: removal gets faster with its amount and is feasible up to 0.6, l1 gains nothing."""

    def __init__(self, run: RunFolder, session: Any, trials: int | None, unavailable: bool = False) -> None:
        self.said: list[str] = []
        self.tried: list[str] = []
        self._unavailable = unavailable
        super().__init__(run, session, self.said.append, trials)

    def _evaluate(self, recipe: Recipe) -> CellResult:
        self.tried.append(recipe.label)
        if self._unavailable:
            return cell({"Recipe": recipe.label, "Outcome": "unavailable", "Reason": "gone"})
        step = recipe.steps[0]
        amount = float(step.config["amount"])
        speedup = 1 / (1 - amount) if step.method == "removal" else 1.0
        drop = 0.0 if amount <= 0.6 else 5.0
        return cell({
            "Recipe": recipe.label, "Inference Time (ms)": 10 / speedup, "Baseline Time (ms)": 10.0, "Paired": True,
            "Speedup": speedup, "P99 (ms)": 1.0, "Held-out Change": -drop, "Held-out Accuracy": 90 - drop,
        })  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def session(**changes: Any) -> Any:
    return SimpleNamespace(manifest=manifest(**changes), facts=None, execution=None)


def test_the_best_amount_is_found_without_trying_all(run: RunFolder) -> None:
    search = Landscape(run, session(), trials=10)
    search.explore()
    assert len(search.tried) == len(set(search.tried)) == 10
    assert search.front()[0].recipe == "removal 0.6", "the largest amount that is feasible"
    assert "front:" in search.said[-1] and search.said[0].startswith("1/10")
    with (run / TRIALS).open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10 and {row["Feasible"] for row in rows} == {"True", "False"}


def test_a_search_settles_when_nothing_better_is_found(run: RunFolder) -> None:
    """Unless it was told how many recipes to try."""
    amounts = [round(0.02 * index, 2) for index in range(1, 49)]
    recipes = [
        {"name": name, "steps": [{"prune": {"method": method, "amount": amounts}}]}
        for name, method in (("removal", "removal"), ("l1", "l1-unstructured"))
    ]
    search = Landscape(run, session(recipes=recipes), trials=None)
    search.explore()
    assert search.front()[0].recipe == "removal 0.6" and 12 <= len(search.tried) < 32
    fixed = Landscape(run, session(recipes=recipes, search={"trials": 32}), trials=None)
    fixed.explore()
    assert len(search.tried) + len(fixed.tried) == 32, "it goes on with what was tried"


def test_a_search_has_not_settled_while_a_cheaper_recipe_may_become_feasible(run: RunFolder) -> None:
    """The first recipe is the best for long; removal of 0.75 is cheaper, and up to 0.6 it keeps the accuracy."""
    amounts = [round(0.01 * index, 2) for index in range(55, 96)]
    families = {f"ways {index}": "l1-unstructured" for index in range(10)} | {"removal": "removal"}
    recipes = [
        {"name": name, "steps": [{"prune": {"method": method, "amount": amounts if method == "removal" else 0.1}}]}
        for name, method in families.items()
    ]
    search = Landscape(run, session(recipes=recipes), trials=None)
    search.explore()
    assert search.front()[0].recipe == "removal 0.6"


def test_an_interrupted_search_goes_on_where_it_was(run: RunFolder) -> None:
    first = Landscape(run, session(), trials=4)
    first.explore()
    second = Landscape(run, session(), trials=8)
    second.explore()
    assert len(second.tried) == 4 and not set(first.tried) & set(second.tried)
    other = Landscape(run, session(goal={"max_drop": 2.0}), trials=3)
    other.explore()
    assert len(other.tried) == 3, "another goal is another question"


def test_what_is_not_there_now_is_tried_again_later(run: RunFolder) -> None:
    Landscape(run, session(), trials=3, unavailable=True).explore()
    later = Landscape(run, session(), trials=3)
    later.explore()
    assert len(later.tried) == 3


def test_a_damaged_study_is_named(run: RunFolder) -> None:
    (run / STUDY).write_bytes(b"no database" * 100)
    with pytest.raises(InvalidInput, match=f"{STUDY} is damaged or in use: .*restore it"):
        Landscape(run, session(), trials=1).explore()
