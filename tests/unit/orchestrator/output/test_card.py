"""The cards at the top of a report."""

from __future__ import annotations

from typing import Any

from pqbench_orchestrator.config.manifest import Goal
from pqbench_orchestrator.decide.recommend import recommend
from pqbench_orchestrator.output.report.card import Card, card_of

from ..cells import table

BASELINE: dict[str, Any] = {
    "Recipe": "baseline", "Baseline": True, "Pruner": "-", "Quantizer": "-", "Inference Time (ms)": 4.0, "Accuracy": 95.0,
    "Accuracy Low": 93.0, "Accuracy High": 96.5, "Scored Images": 2000, "Engine (bytes)": 4_000_000, "Stable": True,
    "Cell": "base", "Median Low (ms)": 3.9, "Median High (ms)": 4.1, "P99 (ms)": 5.0,
}  # fmt: skip
INT8 = BASELINE | {
    "Recipe": "int8", "Baseline": False, "Quantizer": "int8-static", "Inference Time (ms)": 2.0, "Speedup": 2.0,
    "Speedup Low": 1.9, "Speedup High": 2.1, "Baseline Time (ms)": 4.0, "Paired": True, "Accuracy Change": -0.2,
    "Engine (bytes)": 1_100_000, "Cell": "int8", "Median Low (ms)": 1.9, "Median High (ms)": 2.1,
}  # fmt: skip


def card(*rows: dict[str, Any], goal: Goal | None = None) -> Card:
    (found,) = recommend(table(rows), goal or Goal(max_drop=1.0))
    return card_of(found, None, "RUN")


def test_what_to_ship_in_four_figures() -> None:
    found = card(BASELINE, INT8)
    assert (found.group, found.headline, found.key) == ("m, d, batch 1", "int8 on t", "int8")
    assert [(tile.name, tile.value, tile.beside) for tile in found.tiles] == [
        ("Latency", "2.000 ms", "1.900 to 2.100"), ("Speed-up", "2.00×", "1.90 to 2.10"),
        ("Accuracy on 2000 images", "95.00 %", "-0.20 points (-0.50 to +0.10)"), ("Size", "1.10 MB", "the engine's file"),
    ]  # fmt: skip
    assert found.badge == "stable" and found.commands[0] == "pqbench export RUN int8 --out bundle"
    assert card(BASELINE, INT8 | {"Stable": False, "Unstable Because": "load"}).badge == "unstable"


def test_the_runners_up_are_chips_and_no_sentence() -> None:
    alike = INT8 | {"Recipe": "int8 too", "Cell": "too", "Speedup": 1.99, "Speedup Low": 1.89, "Speedup High": 2.09}
    found = card(BASELINE, INT8, alike)
    assert found.runners_up == (("int8 too on t", "too"),)
    assert not [line for line in found.lines if line.startswith("Statistically")]


def test_where_nothing_is_feasible_it_says_what_binds() -> None:
    found = card(BASELINE, INT8, goal=Goal(p99_seconds=1e-6))
    assert not found.key and found.headline == "No cell is feasible; binding constraints: p99." and found.lines


def test_an_engine_that_was_only_built_has_a_size_alone() -> None:
    built = {"Recipe": "fp16", "Outcome": "unavailable", "Reason": "no CUDA device", "Engine (bytes)": 2_000_000}
    found = card(built, goal=Goal(minimize="size"))
    assert [(tile.name, tile.value) for tile in found.tiles] == [("Accuracy", "not known"), ("Size", "2.00 MB")]
    assert found.badge == "not measured" and not found.is_proven and not found.commands


def test_the_headline_says_which_loss_is_not_excluded() -> None:
    loses = INT8 | {"Held-out Change": -0.9, "Held-out Change Low": -1.4, "Held-out Images": 2000}
    found = card(BASELINE | {"Held-out Images": 2000}, loses)
    assert found.verb == "Ship" and found.reservation == " (a loss of up to 1.40 points is not excluded)"
    assert not card(BASELINE, INT8).reservation
