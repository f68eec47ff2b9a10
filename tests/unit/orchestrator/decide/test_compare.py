"""Compare on cells of the tests' own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pqbench_orchestrator.decide.compare import NOT_COMPARABLE, Change, changed_layers, compare
from pqbench_orchestrator.decide.gate import judge
from pqbench_orchestrator.decide.sides import Identity, Session, Side, side_of
from pqbench_orchestrator.output.comparison import common_notes, markdown, texts
from pqbench_orchestrator.statistics import BETTER, SAME, WORSE
from pqbench_orchestrator.store.ledger import FILE, Ledger
from pqbench_orchestrator.store.run_folder import RunFolder
from pqbench_wire.errors import InvalidInput

from ..cells import cell

KEY = Identity("m", "d", "r", 1, 1, None)


def session(ms: float, blocks: int = 6, noise: float = 0.002, seed: int = 0, **changes: Any) -> Session:
    times = ms / 1e3 * np.exp(np.random.default_rng(seed).normal(0, noise, blocks))
    row = {
        "Outcome": "ok",
        "Reason": "",
        "Inference Time (ms)": ms,
        "Options": '{"threads": 2}',
        "Scenario": "single-stream",
        "Stable": True,
    }
    layers, right, images = changes.pop("layers", {}), changes.pop("right", None), changes.pop("images", "the same")
    return Session(cell=cell(row | changes), blocks=list(times), layers=layers, right=right, images=images)


def side(*sessions: Session) -> Side:
    return Side(name="s", sessions={KEY: list(sessions)}, timed_options=frozenset({"threads"}))


def changed(old: Side, new: Side, anyway: bool = False) -> Change:
    (one,) = compare(old, new, anyway)
    return one


def test_one_session_each_needs_a_change_beyond_what_sessions_differ() -> None:
    assert changed(side(session(1.0)), side(session(1.03, seed=1))).verdict == SAME
    slower = changed(side(session(1.0)), side(session(1.1, seed=1)))
    assert slower.verdict == WORSE and slower.is_apart and "one session" in slower.reason
    assert slower.ratio is not None and slower.ratio.low < 1.1 < slower.ratio.high


def faster_cells() -> dict[Identity, list[Session]]:
    return {KEY: [session(0.96 + 0.004 * i) for i in range(4)]}


def test_sessions_make_the_interval() -> None:
    old = side(*(session(1.0 + 0.004 * i) for i in range(4)))
    faster = changed(old, Side(name="n", sessions=faster_cells()))
    assert (
        faster.verdict == BETTER
        and faster.notes == ["4 and 4 sessions: figures are their geometric means"]
        and faster.old_ms == pytest.approx(1.006, rel=1e-4)
    )
    other = Side(name="n", sessions=faster_cells(), run=Path("other"))
    (between,) = compare(old, other)
    assert between.verdict == SAME and between.is_apart, "two runs differ by as much without a reason"
    (told,) = compare(old, other, tolerance=0.01)
    assert told.verdict == BETTER, "unless one knows better"
    wide = changed(side(session(1.0), session(1.2)), side(session(1.05), session(1.3)))
    assert wide.verdict == SAME, "sessions differ more than the sides"


def test_what_differs_in_a_setting_that_matters_is_not_compared_unless_told() -> None:
    old, new = side(session(1.0)), side(session(2.0, Options='{"threads": 4}'))
    refused = changed(old, new)
    assert refused.verdict == NOT_COMPARABLE and refused.reason == "option threads: 2 and 4" and refused.ratio is None
    assert changed(old, new, anyway=True).verdict == WORSE
    assert "scenario" in changed(old, side(session(1.0, Scenario="offline"))).reason
    assert "not on the new side" in changed(old, Side(name="n", sessions={})).reason
    failed = side(session(1.0, Outcome="failed", Reason="broke"))
    assert changed(old, failed).reason == "failed on the new side: broke"


def test_another_recipe_or_model_under_the_same_name_is_told() -> None:
    def defined(recipe: str, model: str) -> Session:
        return replace(session(10), definition={"recipe": recipe, "model": model})

    same = changed(side(defined("quantize fp16", "resnet")), side(defined("quantize fp16", "resnet")))
    assert "another" not in same.reason
    other = changed(side(defined("quantize fp16", "resnet")), side(defined("quantize bf16", "resnet")))
    assert other.notes[0] == "another recipe under the same name: quantize fp16; now quantize bf16"
    assert "another" not in changed(side(defined("quantize fp16", "resnet")), side(session(10))).reason


def test_engines_that_were_built_and_not_run_are_compared_by_size_and_build_time() -> None:
    def built(size: int, seconds: float) -> Side:
        figures = {"Engine (bytes)": size, "Build Time (s)": seconds, "Inference Time (ms)": None}
        return side(session(1.0, Outcome="unavailable", Reason="no CUDA device; built for 8.9", **figures))

    change = changed(built(2_000_000, 3.0), built(1_500_000, 2.5))
    assert change.verdict == NOT_COMPARABLE and not change.is_lost
    assert change.reason == ("built, not run: the engine has 2.000 MB and 1.500 MB (-25.0%), built in 3.0 s and 2.5 s")
    wrong = side(session(1.0, Outcome="failed", Reason="13 dB", **{"Engine (bytes)": 2_000_000}))
    assert changed(wrong, wrong).reason == "failed on the old side: 13 dB"


def test_accuracy_has_a_verdict_and_both_can_be_a_regression() -> None:
    right = np.ones(500, bool)
    wrong = right.copy()
    wrong[:40] = False
    worse = changed(side(session(1.0, right=right)), side(session(1.0, right=wrong)))
    assert worse.verdict == SAME and worse.accuracy_verdict == WORSE
    slower = changed(side(session(1.0)), side(session(1.08, seed=1)))
    assert slower.accuracy_verdict == ""
    assert (
        judge([worse, slower], 0.03, absolute=False).worse == [worse, slower]
        and judge([slower], 0.2, absolute=False).worse == []
    )


def test_a_cell_that_does_not_run_any_more_is_a_regression() -> None:
    lost = changed(side(session(1.0)), side(session(1.0, Outcome="failed", Reason="broke")))
    assert lost.is_lost and judge([lost], 0.03, absolute=False).worse == [lost]
    partly = changed(
        side(session(1.0), session(1.0)), side(session(1.0), session(1.0, Outcome="failed", Reason="crashed"))
    )
    assert partly.is_lost, "one session that fails where none did"
    never = changed(
        side(session(1.0, Outcome="refused", Reason="x")), side(session(1.0, Outcome="refused", Reason="x"))
    )
    assert not never.is_lost and judge([never], 0.03, absolute=False).worse == []


def test_accuracies_of_other_images_are_compared_by_their_intervals() -> None:
    right = np.ones(500, bool)
    scores = [{"Accuracy Low": low, "Accuracy High": low + 4.0} for low in (80.0, 82.0, 70.0)]
    near, far = (
        changed(side(session(1.0, right=right, **scores[0])), side(session(1.0, right=right, images="others", **other)))
        for other in scores[1:]
    )
    assert near.accuracy is None and near.accuracy_verdict == SAME and "not of the same images" in near.reason
    assert far.accuracy_verdict == WORSE and judge([far], 0.03, absolute=False).worse == [far]
    untimed = {"Inference Time (ms)": None, "right": right}
    worse = changed(side(session(1.0, **untimed)), side(session(1.0, **(untimed | {"right": ~right}))))
    assert worse.verdict == NOT_COMPARABLE and worse.accuracy_verdict == WORSE, "what is never timed has an accuracy"


def test_one_target_is_not_compared_with_all_of_another_run() -> None:
    with pytest.raises(InvalidInput, match="name a target on both sides or on none"):
        compare(Side(name="a", sessions={}, is_of_target=True), Side(name="b", sessions={}))


def test_an_invalid_server_run_has_no_latency_to_compare() -> None:
    served = {"Scenario": "server", "Rate (1/s)": 100.0}
    valid, invalid = (side(session(1.0, Valid=valid, **served)) for valid in (True, False))
    broken = changed(valid, invalid)
    assert "server run on the new side is invalid" in broken.reason and judge([broken], 0.03, absolute=False).worse == [
        broken
    ]
    faster = side(session(1.0, Valid=True, **(served | {"Rate (1/s)": 120.0})))
    assert changed(valid, faster).reason == "calls a second: 100.0 and 120.0"


def test_highest_rates_are_compared_over_sessions() -> None:
    """Medians at different rates say nothing: the time for a call does."""

    def run(*rates: float) -> Side:
        found = {"Scenario": "server", "Valid": True, "Rate Searched": True}
        return side(*(session(1.0, **found, **{"Rate (1/s)": rate}) for rate in rates))

    halved = changed(run(200.0, 201.0, 199.0), run(100.0, 101.0, 99.0))
    assert halved.verdict == WORSE and halved.ratio is not None and halved.ratio.value == pytest.approx(2, rel=0.01)
    assert "highest rate" in halved.reason and judge([halved], 0.03, absolute=False).worse == [halved]
    assert "set repeats" in changed(run(200.0), run(100.0)).reason


def test_the_rows_of_old_runs_are_of_one_instance_and_stream(tmp_path: Path) -> None:
    folder = tmp_path / "experiments/old"
    folder.mkdir(parents=True)
    ledger = Ledger(folder / FILE)
    row = {"Model": "m", "Dataset": "d", "Recipe": "r", "Batch Size": 1, "Target": "t", "Cell": "c", "Outcome": "ok"}
    row |= {"Pruner": "-", "Quantizer": "-"}
    ledger.record_cells([("c", "ok", "", row)])
    ledger.record_plan({"c": {}})
    ledger.close()
    (identity,) = side_of(RunFolder(folder)).sessions
    assert identity == KEY._replace(target="t")


def test_layers_that_run_in_another_precision_are_named() -> None:
    layers = [{"c1": "FP16", "x": "FP32"}, {"c1": "FP32", "y": "FP16"}]
    assert changed_layers(*layers) == ["c1: FP16 → FP32"]
    shown = texts(changed(side(session(1.0, layers=layers[0])), side(session(1.0, layers=layers[1]))))
    assert "1 layers differ: c1: FP16 → FP32" in shown[-1]
    lines = markdown([changed(side(session(1.0)), side(session(1.2, seed=2)))], "a", "b").splitlines()
    assert lines[0] == "`a` → `b`" and lines[2].startswith("| Cell |") and "m, d, r, batch 1" in lines[4]


def test_two_runs_are_compared_by_speed_up_over_their_own_baselines() -> None:
    """The second machine is twice as slow: that is in both of its cells, and in no verdict."""
    paired = {"Paired": True, "Speedup": 2.0, "Speedup Low": 1.98, "Speedup High": 2.02}
    old = side(session(1.0, **paired))
    new = Side(name="n", sessions={KEY: [session(2.0, **paired)]}, run=Path("other"))
    same = changed(old, new)
    assert same.verdict == SAME and same.ratio is not None and same.ratio.value == pytest.approx(1.0)
    assert (same.old_speedup, same.new_speedup) == (pytest.approx(2.0), pytest.approx(2.0))
    worse = paired | {"Speedup": 1.5, "Speedup Low": 1.49, "Speedup High": 1.51}
    new = Side(name="n", sessions={KEY: [session(2.0, **worse)]}, run=Path("other"))
    found = changed(old, new)
    assert found.verdict == WORSE and found.ratio is not None and found.ratio.value == pytest.approx(2 / 1.5)


def test_what_is_shown_is_what_is_compared() -> None:
    old, new = (replace(session(1.0), blocks=blocks) for blocks in ([1e-3, 4e-3], [3e-3, 3.1e-3]))
    found = changed(side(old), side(new))
    assert found.ratio is not None and found.old_ms is not None and found.new_ms is not None
    assert found.ratio.value == pytest.approx(found.new_ms / found.old_ms)


def test_a_note_that_all_changes_share_stands_below_the_table_once() -> None:
    cells = {KEY: [session(1.0)], KEY._replace(recipe="other"): [session(2.0, seed=1)]}
    changes = compare(Side(name="o", sessions=cells), Side(name="n", sessions=cells))
    (note,) = common_notes(changes)
    assert note.startswith("one session") and all(not texts(one, [note])[-1] for one in changes)
    shown = markdown(changes, "o", "n")
    assert shown.count("ne session: the interval") == 1 and "One session" in shown.splitlines()[-1]
    assert common_notes(changes[:1]) == [], "a single change keeps its note"
