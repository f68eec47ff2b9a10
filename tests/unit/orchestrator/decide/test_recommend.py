"""Recommend on cells of the tests' own."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pqbench_orchestrator.config.manifest import Goal
from pqbench_orchestrator.decide.recommend import (
    HALF,
    HELD_OUT,
    INVALID,
    UNKNOWN_ACCURACY,
    Candidate,
    Recommendation,
    broken_again,
    is_distinguishable,
    recommend,
)
from pqbench_orchestrator.output.recommendation import as_json, text
from pqbench_orchestrator.output.report.export import latex
from pqbench_orchestrator.output.report.export import markdown as table_in_markdown
from pqbench_orchestrator.output.terminal import summary
from pqbench_orchestrator.results.cell import Confirmation
from pqbench_orchestrator.store.run_folder import RunFolder

from ..cells import cell, table

RUN = RunFolder(Path(__file__).parent)


def row(recipe: str, ms: float, drop: float = 0.0, **changes: Any) -> dict[str, Any]:
    speedup = None if recipe == "baseline" else 10 / ms
    return {
        "Model": "m", "Dataset": "d", "Batch Size": 1, "Concurrency": 1, "Recipe": recipe, "Target": "t", "Cell": recipe,
        "Baseline": recipe == "baseline",
        "Outcome": "ok", "Inference Time (ms)": ms, "Median Low (ms)": ms, "Median High (ms)": ms, "P99 (ms)": 2 * ms,
        "Speedup": speedup, "Speedup Low": speedup and speedup * 0.99, "Speedup High": speedup and speedup * 1.01,
        "Paired": True if speedup else None, "Baseline Time (ms)": 10.0 if speedup else None, "Engine (bytes)": int(1e6 * ms),
        "Held-out Change": -drop, "Held-out Images": 400, "Accuracy": 90 - drop, "Accuracy Low": 88 - drop,
        "Accuracy High": 92 - drop, "Accuracy Change": -drop if speedup else None, "Accuracy Change Low": -drop - 1,
        "Accuracy Change High": 1 - drop, "Indistinguishable": True,
    } | changes  # fmt: skip


GRID = [row("baseline", 10.0), row("a", 5.0, 0.5), row("b", 4.95, 0.6), row("c", 2.0, 4.0), row("d", 7.0, 0.0)]


def only(rows: list[dict[str, Any]], **goal: Any) -> Recommendation:
    (found,) = recommend(table(rows), Goal(**goal))
    return found


def again(found: Recommendation, **changes: Any) -> Confirmation:
    """The best measured again."""
    assert found.best is not None and found.best.cell.timing is not None
    return Confirmation(timing=replace(found.best.cell.timing, **changes))


def test_the_cheapest_feasible_recipe_is_recommended_with_what_is_like_it() -> None:
    found = only(GRID, max_drop=1.0)
    assert found.best is not None and found.best.cell.recipe == "b"
    assert [one.cell.recipe for one in found.runners_up] == ["a"], "within 2 % by intervals of 1 %"
    lines = text(found, "RUN")
    assert (
        lines[0]
        == "model m, dataset d, batch size 1, concurrency 1: minimize latency with at most 1 points of accuracy lost"
    )
    assert lines[1].startswith("Ship b on t: 4.950 ms") and "indistinguishable from the baseline" in lines[1]
    assert lines[-1] == "pqbench export RUN b --out bundle" and any(
        "Statistically indistinguishable from it in latency: a on t" in one for one in lines
    )
    assert "not measured again" in lines[2]
    assert "held-out training images: -0.60 points on 400" in lines[3]
    measured_again = text(found, "RUN", again(found, median_ms=5.2))
    assert measured_again[1].startswith("Ship b on t: 5.200 ms"), "the figure to quote"
    assert measured_again[2].startswith("Measured again after the choice; it was chosen by 4.950 ms")
    assert "could not be measured again after the choice: gone" in text(found, "RUN", Confirmation(error="gone"))[2]


def test_the_choice_is_made_on_held_out_images_not_on_those_that_score() -> None:
    flattered = [
        row("baseline", 10.0),
        row("lucky", 2.0, **{"Held-out Change": -5.0, "Accuracy Change": 0.0}),
        row("fair", 4.0),
    ]
    found = only(flattered)
    assert found.best is not None and found.best.cell.recipe == "fair"
    without = [one | {"Held-out Change": None} for one in flattered]
    other = only(without)
    assert other.best is not None and other.best.cell.recipe == "lucky" and "whole scoring split" in other.judged_on


def test_a_machine_that_drifts_does_not_decide() -> None:
    drifted = row(
        "slow day", 6.0, 0.0, **{"Baseline Time (ms)": 20.0, "Speedup": 20 / 6, "Speedup Low": 3.3, "Speedup High": 3.4}
    )
    found = only([row("baseline", 10.0), row("a", 5.0), drifted])
    assert found.best is not None and found.best.cell.recipe == "slow day", (
        "3.3 times its baseline, whatever its own median"
    )


def test_what_binds_is_said_where_nothing_is_feasible() -> None:
    found = only(GRID, max_drop=1.0, p99_seconds=0.005)
    assert (found.best is None and found.binding == ["max-drop", "p99"]) or found.binding == ["max-drop"]
    assert found.nearest is not None and found.nearest.violations
    lines = text(found, "RUN")
    assert lines[1].startswith("No cell is feasible; binding constraints:") and "The nearest is" in lines[2]
    impossible = only(GRID, p99_seconds=0.0001)
    assert impossible.binding == ["p99"] and impossible.nearest is not None


def test_of_recipes_of_like_cost_the_one_that_loses_least_is_recommended() -> None:
    lossless = row("lossless", 5.0, 0.1)
    found = only([*GRID, lossless], max_drop=1.0)
    assert found.best is not None and found.best.cell.recipe == "lossless"
    assert [one.cell.recipe for one in found.runners_up] == ["b", "a"]
    (line,) = (one for one in text(found, "RUN") if "indistinguishable from it" in one)
    assert "b on t (4.950 ms" in line and "-0.60 points" in line
    slower = only([*GRID, row("lossless", 5.4, 0.0)], max_drop=1.0)
    assert slower.best is not None and slower.best.cell.recipe == "b", "its cost is distinguishable"


def test_size_and_energy_can_be_minimized() -> None:
    found = only(GRID, minimize="size", max_drop=5.0)
    assert found.best is not None and found.best.cell.recipe == "c" and found.runners_up == []
    bounded = only(GRID, minimize="latency", max_megabytes=6.0, max_drop=1.0)
    assert bounded.best is not None and bounded.best.cell.recipe == "b"
    unknown = only(GRID, minimize="energy")
    assert unknown.best is None and text(unknown, "RUN")[-1] == "No cell has a figure for energy."
    with_energy = [one | {"Energy (mJ/image)": one["Inference Time (ms)"]} for one in GRID]
    assert only(with_energy, minimize="energy").best is not None


def test_repeats_are_one_candidate() -> None:
    repeated = [*GRID, *(row("a", ms, 0.5) for ms in (1.0, 5.1))]
    found = only(repeated, max_drop=1.0)
    assert found.best is not None and found.best.cell.recipe == "b", "the median of 5.0, 1.0 and 5.1"


def test_an_accuracy_that_is_not_known_breaks_the_bound() -> None:
    unscored = row("fast", 1.0, **{"Held-out Change": None, "Accuracy Change": None})
    found = only([*GRID, unscored], max_drop=1.0)
    assert found.best is not None and found.best.cell.recipe == "b"
    alone = only([row("baseline", 10.0, Outcome="failed"), unscored, row("c", 2.0, 4.0)], max_drop=1.0)
    assert alone.best is None and set(alone.binding) == {UNKNOWN_ACCURACY, "max-drop"}
    nothing = only([one | {"Held-out Change": None, "Accuracy Change": None} for one in GRID])
    assert nothing.best is not None and "no accuracy is known" in nothing.judged_on


def test_the_highest_rate_decides_and_an_invalid_run_does_not() -> None:
    rates = {"baseline": 100.0, "a": 150.0, "b": 300.0, "d": 200.0}
    served = [
        one | {"Rate (1/s)": rates[one["Recipe"]], "Rate Searched": True, "Valid": one["Recipe"] != "b"}
        for one in GRID
        if one["Recipe"] in rates
    ]
    found = only(served, max_drop=1.0)
    assert found.best is not None and found.best.cell.recipe == "d", "b is invalid, a and the baseline held less"
    assert "200 calls per second" in text(found, "RUN")[1]
    refused = only([one for one in served if one["Recipe"] == "b"], max_drop=1.0)
    assert refused.best is None and refused.binding == [INVALID]


def test_a_choice_that_breaks_its_bound_when_measured_again_is_told() -> None:
    found = only(GRID, max_drop=1.0, p99_seconds=0.010)
    assert found.best is not None and found.best.cell.recipe == "b"
    slower = again(found, p99_ms=12.0)
    assert broken_again(found, slower) == {"p99": pytest.approx(0.2)}
    assert "Measured again, it violates p99 by 20% of its bound." in text(found, "RUN", slower)
    assert broken_again(found, again(found)) == {} == broken_again(found, Confirmation(error="gone"))


@pytest.mark.parametrize(
    ("column", "why"),
    [("Artifact Works", "artifact (wrong outputs or none)"),
     ("Baseline Verified", "baseline (not verified against the model)")],
)  # fmt: skip
def test_what_cannot_be_relied_on_is_never_recommended(column: str, why: str) -> None:
    fastest = row("fast", 1.0)
    assert only([*GRID, fastest | {column: True}], max_drop=1.0).best.cell.recipe == "fast"  # type: ignore[union-attr]
    found = only([*GRID, fastest | {column: False}], max_drop=1.0)
    assert found.best is not None and found.best.cell.recipe == "b"
    assert "fast" not in [one.cell.recipe for one in found.runners_up]
    alone = only([fastest | {column: False}], max_drop=1.0)
    assert alone.best is None and alone.binding == [why]
    assert alone.nearest is not None and alone.nearest.violations == {why: math.inf}
    lines = text(alone, "RUN")
    assert (
        lines[1] == f"No cell is feasible; binding constraints: {why}."
        and f"which violates {why}: 1.000 ms" in lines[2]
    )
    told = as_json(alone, None, RUN)
    assert (told["best"], told["binding"]) == (None, [why]) and told["nearest"]["recipe"] == "fast"


def test_different_targets_are_told_apart_only_beyond_what_sessions_differ() -> None:
    a, near, far = (
        Candidate(cell=cell(row("a", ms, Target=t)), cost=ms) for ms, t in ((5.0, "t"), (5.1, "u"), (5.5, "u"))
    )
    assert not is_distinguishable(a, near, Goal()) and is_distinguishable(a, far, Goal())
    exact = [Candidate(cell=cell(row("a", ms)), cost=ms, error=0.001) for ms in (5.0, 5.1)]
    assert is_distinguishable(*exact, Goal()), "on one target the speed-ups' errors tell"


def test_tables_for_papers() -> None:
    rows = table([row("a & b_c", 5.0) | {"Executed Precision": "INT8 10", "Engine (bytes)": 1500}])
    assert r"a \& b\_c" in latex(rows) and "5.000" in latex(rows) and latex(rows).count(r"\\") == 2
    assert table_in_markdown(rows).splitlines()[2].startswith("| m | a & b_c | t | 1 |")


def test_a_bound_finer_than_the_images_show_is_not_pretended() -> None:
    few = [one | {"Held-out Images": 6} for one in GRID]
    found = only(few, max_drop=1.0)
    lines = text(found, "RUN")
    assert lines[1].startswith("Not proven: b on t")
    assert lines[2] == "A bound of 1 on the points lost cannot be shown on 6 images; 368 are needed."
    assert (
        not found.is_proven
        and as_json(found, None, RUN)["doubts"] == [lines[2]]
        and as_json(found, None, RUN)["images"] == 6
    )
    assert "6 images, which can show a bound of 45.93 points" in " ".join(lines)
    enough = only([one | {"Held-out Images": 368} for one in GRID], max_drop=1.0)
    assert enough.is_proven and text(enough, "RUN")[1].startswith("Ship b")


def test_an_unstable_choice_says_so() -> None:
    shaky = {"Stable": False, "Unstable Because": "drift", "Reason": "", "Engine (bytes)": None}
    found = only([one | shaky for one in GRID], max_drop=1.0)
    assert "unstable" in text(found, "RUN")[1] and "Its times are unstable: drift." in text(found, "RUN")
    assert text(found, "RUN", again(found, is_stable=True))[1].startswith("Ship")
    assert summary(table([row("a", 1.0, **shaky), row("b", 1.0, Reason="")])).startswith(
        "2 cells: 2 ok; 1 of them unstable"
    )
    assert "ok (unstable)" in table_in_markdown(table([row("a", 1.0, **shaky)])) and "ok (unstable)" in latex(
        table([row("a", 1.0, **shaky)])
    )


def test_a_model_at_chance_level_is_not_shipped() -> None:
    guessing = [one | {"Classes": 10, "Accuracy": 10.5, "Accuracy Low": 8.0} for one in GRID]
    found = only(guessing, max_drop=5.0)
    assert found.best is None and "accuracy above chance" in found.binding
    assert only([one | {"Classes": 10} for one in GRID], max_drop=5.0).best is not None


def test_pretrained_weights_are_judged_on_one_half_and_reported_on_the_other() -> None:
    halves = {"Held-out Change": None, "Held-out Images": None, "Selection Images": 400, "Report Images": 400}
    rows = [
        row("baseline", 10.0, **halves, **{"Selection Change": 0.0, "Report Accuracy": 90.0, "Report Change": 0.0}),
        row("lucky", 2.0, **halves, **{"Selection Change": -5.0, "Accuracy Change": 0.0}),
        row("fair", 4.0, **halves, **{
            "Selection Change": -0.5, "Report Accuracy": 88.0, "Report Change": -0.75, "Report Change Low": -1.5,
            "Report Change High": 0.0}),
    ]  # fmt: skip
    found = only(rows, max_drop=1.0)
    lines = text(found, "RUN")
    assert found.best is not None and found.best.cell.recipe == "fair" and found.judged_on == HALF
    assert "accuracy 88.00 % on 400 images, -0.75 points (-1.50 to +0.00" in lines[1]
    assert (
        "one half of the scoring split (the other half gives the reported accuracy): -0.50 points on 400 images"
        in lines[3]
    )


def test_a_target_with_nothing_but_its_baseline_names_the_images_that_judged_it() -> None:
    assert only(GRID[:1]).judged_on == HELD_OUT
    unscored = {"Held-out Change": None, "Held-out Images": None, "Accuracy": None}
    assert "no accuracy is known" in only([GRID[0] | unscored]).judged_on
