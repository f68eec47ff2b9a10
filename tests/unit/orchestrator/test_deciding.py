"""Compare, recommend and why on rows of the tests' own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pqbench_orchestrator import run
from pqbench_orchestrator.compare import (
    NOT_COMPARABLE,
    Change,
    Session,
    Side,
    cells,
    changed_layers,
    compare,
    markdown,
    regressions,
    side_of,
)
from pqbench_orchestrator.display import summary
from pqbench_orchestrator.ledger import FILE, Ledger
from pqbench_orchestrator.manifest import Goal
from pqbench_orchestrator.recommend import (
    HALF,
    INVALID,
    UNKNOWN_ACCURACY,
    Candidate,
    Recommendation,
    as_json,
    broken_again,
    is_proven,
    recommend,
    text,
    told_apart,
)
from pqbench_orchestrator.report.export import latex
from pqbench_orchestrator.report.export import markdown as table_in_markdown
from pqbench_orchestrator.stats import BETTER, SAME, WORSE, Ratio, images_for, least_loss_shown, selection_half, verdict
from pqbench_orchestrator.why import explain
from pqbench_wire.errors import Failed, InvalidInput

KEY = ("m", "d", "r", 1, 1)


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
    layers, right, images = changes.pop("layers", []), changes.pop("right", None), changes.pop("images", "the same")
    return Session(row=row | changes, blocks=list(times), layers=layers, right=right, images=images)


def side(*sessions: Session) -> Side:
    return Side(name="s", cells={KEY: list(sessions)})


def changed(old: Side, new: Side, anyway: bool = False) -> Change:
    (one,) = compare(old, new, anyway)
    return one


def test_one_session_each_needs_a_change_beyond_what_sessions_differ() -> None:
    assert changed(side(session(1.0)), side(session(1.03, seed=1))).verdict == SAME
    slower = changed(side(session(1.0)), side(session(1.1, seed=1)))
    assert slower.verdict == WORSE and slower.apart and "one session" in slower.reason
    assert slower.ratio is not None and slower.ratio.low < 1.1 < slower.ratio.high


def faster_cells() -> dict[tuple[Any, ...], list[Session]]:
    return {KEY: [session(0.96 + 0.004 * i) for i in range(4)]}


def test_sessions_make_the_interval() -> None:
    old = side(*(session(1.0 + 0.004 * i) for i in range(4)))
    faster = changed(old, Side(name="n", cells=faster_cells()))
    assert faster.verdict == BETTER and faster.reason == "" and faster.old_ms == pytest.approx(1.006, rel=1e-4)
    other = Side(name="n", cells=faster_cells(), run=Path("other"))
    (between,) = compare(old, other)
    assert between.verdict == SAME and between.apart, "two runs differ by as much without a reason"
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
    assert "not in the new side" in changed(old, Side(name="n", cells={})).reason
    failed = side(session(1.0, Outcome="failed", Reason="broke"))
    assert changed(old, failed).reason == "failed in the new side: broke"


def test_accuracy_has_a_verdict_and_both_can_be_a_regression() -> None:
    right = np.ones(500, bool)
    wrong = right.copy()
    wrong[:40] = False
    worse = changed(side(session(1.0, right=right)), side(session(1.0, right=wrong)))
    assert worse.verdict == SAME and worse.accuracy_verdict == WORSE
    slower = changed(side(session(1.0)), side(session(1.08, seed=1)))
    assert slower.accuracy_verdict == ""
    assert regressions([worse, slower], 0.03) == [worse, slower] and regressions([slower], 0.2) == []


def test_a_cell_that_does_not_run_any_more_is_a_regression() -> None:
    lost = changed(side(session(1.0)), side(session(1.0, Outcome="failed", Reason="broke")))
    assert lost.lost and regressions([lost], 0.03) == [lost]
    partly = changed(
        side(session(1.0), session(1.0)), side(session(1.0), session(1.0, Outcome="failed", Reason="crashed"))
    )
    assert partly.lost, "one session that fails where none did"
    never = changed(
        side(session(1.0, Outcome="refused", Reason="x")), side(session(1.0, Outcome="refused", Reason="x"))
    )
    assert not never.lost and regressions([never], 0.03) == []


def test_accuracies_of_other_images_are_compared_by_their_intervals() -> None:
    right = np.ones(500, bool)
    scores = [{"Accuracy Low": low, "Accuracy High": low + 4.0} for low in (80.0, 82.0, 70.0)]
    near, far = (
        changed(side(session(1.0, right=right, **scores[0])), side(session(1.0, right=right, images="others", **other)))
        for other in scores[1:]
    )
    assert near.accuracy is None and near.accuracy_verdict == SAME and "not of the same images" in near.reason
    assert far.accuracy_verdict == WORSE and regressions([far], 0.03) == [far]
    untimed = {"Inference Time (ms)": None, "right": right}
    worse = changed(side(session(1.0, **untimed)), side(session(1.0, **(untimed | {"right": ~right}))))
    assert worse.verdict == NOT_COMPARABLE and worse.accuracy_verdict == WORSE, "what is never timed has an accuracy"


def test_one_target_is_not_compared_with_all_of_another_run() -> None:
    with pytest.raises(InvalidInput, match="name a target on both sides or on none"):
        compare(Side(name="a", cells={}, of_target=True), Side(name="b", cells={}))


def test_an_invalid_server_run_has_no_latency_to_compare() -> None:
    served = {"Scenario": "server", "Rate (1/s)": 100.0}
    valid, invalid = (side(session(1.0, Valid=valid, **served)) for valid in (True, False))
    broken = changed(valid, invalid)
    assert "server run of the new side is invalid" in broken.reason and regressions([broken], 0.03) == [broken]
    faster = side(session(1.0, Valid=True, **(served | {"Rate (1/s)": 120.0})))
    assert changed(valid, faster).reason == "calls a second: 100.0 and 120.0"


def test_highest_rates_are_compared_over_sessions() -> None:
    """Medians at different rates say nothing: the time for a call does."""

    def run(*rates: float) -> Side:
        found = {"Scenario": "server", "Valid": True, "Rate Searched": True}
        return side(*(session(1.0, **found, **{"Rate (1/s)": rate}) for rate in rates))

    halved = changed(run(200.0, 201.0, 199.0), run(100.0, 101.0, 99.0))
    assert halved.verdict == WORSE and halved.ratio is not None and halved.ratio.value == pytest.approx(2, rel=0.01)
    assert "highest rate" in halved.reason and regressions([halved], 0.03) == [halved]
    assert "set repeats" in changed(run(200.0), run(100.0)).reason


def test_the_rows_of_old_runs_are_of_one_instance_and_stream(tmp_path: Path) -> None:
    folder = tmp_path / "experiments/old"
    folder.mkdir(parents=True)
    ledger = Ledger(folder / FILE)
    row = {"Model": "m", "Dataset": "d", "Recipe": "r", "Batch Size": 1, "Target": "t", "Cell": "c", "Outcome": "ok"}
    row |= {"Pruner": "-", "Quantizer": "-"}
    ledger.record_cells([("c", "ok", "", row)])
    ledger.describe({"cell c": "{}"})
    ledger.close()
    (cell,) = side_of(folder).cells
    assert cell == (*KEY, "t")


def test_layers_that_run_in_another_precision_are_named() -> None:
    layers = [
        [{"name": "c1", "precision": p, "compute": True}, {"name": "x", "precision": p}] for p in ("FP16", "FP32")
    ]
    assert changed_layers(*layers) == ["c1: FP16 → FP32"]
    shown = cells(changed(side(session(1.0, layers=layers[0])), side(session(1.0, layers=layers[1]))))
    assert "1 layers differ: c1: FP16 → FP32" in shown[-1]
    lines = markdown([changed(side(session(1.0)), side(session(1.2, seed=2)))], "a", "b").splitlines()
    assert lines[0] == "`a` → `b`" and lines[2].startswith("| Cell |") and "m, d, r, batch 1" in lines[4]


@pytest.mark.parametrize(
    ("ratio", "said"),
    [((1.004, 1.002, 1.006), SAME), ((1.02, 1.015, 1.025), WORSE), ((1.02, 0.99, 1.05), SAME), ((0.9, 0.88, 0.92), BETTER),
     ((1.5, 0.0, math.inf), SAME)],
)  # fmt: skip
def test_verdicts(ratio: tuple[float, float, float], said: str) -> None:
    assert verdict(Ratio(value=ratio[0], low=ratio[1], high=ratio[2])) == said


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
    (found,) = recommend(rows, Goal(**goal))
    return found


def test_the_cheapest_feasible_recipe_is_recommended_with_what_is_like_it() -> None:
    found = only(GRID, max_drop=1.0)
    assert found.best is not None and found.best.row["Recipe"] == "b"
    assert [one.row["Recipe"] for one in found.runners_up] == ["a"], "within 2 % by intervals of 1 %"
    lines = text(found, "RUN")
    assert (
        lines[0]
        == "model m, dataset d, batch size 1, concurrency 1: minimize latency with at most 1 points of accuracy lost"
    )
    assert lines[1].startswith("Ship b on t: 4.950 ms") and "not told from the baseline" in lines[1]
    assert lines[-1] == "pqbench export RUN b --out bundle" and any(
        "Not told apart from it: a on t" in one for one in lines
    )
    assert "not measured again" in lines[2]
    assert "held-out training images: -0.60 points on 400" in lines[3]
    assert "Measured again after the choice: 4.950 ms" in text(found, "RUN", found.best.row)[2]
    assert "could not be measured again after the choice: gone" in text(found, "RUN", {"Error": "gone"})[2]


def test_the_choice_is_made_on_held_out_images_not_on_those_that_score() -> None:
    flattered = [
        row("baseline", 10.0),
        row("lucky", 2.0, **{"Held-out Change": -5.0, "Accuracy Change": 0.0}),
        row("fair", 4.0),
    ]
    found = only(flattered)
    assert found.best is not None and found.best.row["Recipe"] == "fair"
    without = [one | {"Held-out Change": None} for one in flattered]
    other = only(without)
    assert other.best is not None and other.best.row["Recipe"] == "lucky" and "the split that scores" in other.chosen_on


def test_a_machine_that_drifts_does_not_decide() -> None:
    drifted = row(
        "slow day", 6.0, 0.0, **{"Baseline Time (ms)": 20.0, "Speedup": 20 / 6, "Speedup Low": 3.3, "Speedup High": 3.4}
    )
    found = only([row("baseline", 10.0), row("a", 5.0), drifted])
    assert found.best is not None and found.best.row["Recipe"] == "slow day", (
        "3.3 times its baseline, whatever its own median"
    )


def test_what_binds_is_said_where_nothing_is_feasible() -> None:
    found = only(GRID, max_drop=1.0, p99_seconds=0.005)
    assert (found.best is None and found.binding == ["max-drop", "p99"]) or found.binding == ["max-drop"]
    assert found.nearest is not None and found.nearest.violations
    lines = text(found, "RUN")
    assert lines[1].startswith("No cell is feasible; what binds is") and "The nearest is" in lines[2]
    impossible = only(GRID, p99_seconds=0.0001)
    assert impossible.binding == ["p99"] and impossible.nearest is not None


def test_size_and_energy_can_be_minimized() -> None:
    found = only(GRID, minimize="size", max_drop=5.0)
    assert found.best is not None and found.best.row["Recipe"] == "c" and found.runners_up == []
    bounded = only(GRID, minimize="latency", max_megabytes=6.0, max_drop=1.0)
    assert bounded.best is not None and bounded.best.row["Recipe"] == "b"
    unknown = only(GRID, minimize="energy")
    assert unknown.best is None and text(unknown, "RUN")[-1] == "No cell has a figure for energy."
    with_energy = [one | {"Energy (mJ/image)": one["Inference Time (ms)"]} for one in GRID]
    assert only(with_energy, minimize="energy").best is not None


def test_repeats_are_one_candidate() -> None:
    repeated = [*GRID, *(row("a", ms, 0.5) for ms in (1.0, 5.1))]
    found = only(repeated, max_drop=1.0)
    assert found.best is not None and found.best.row["Recipe"] == "b", "the median of 5.0, 1.0 and 5.1"


def test_an_accuracy_that_is_not_known_breaks_the_bound() -> None:
    unscored = row("fast", 1.0, **{"Held-out Change": None, "Accuracy Change": None})
    found = only([*GRID, unscored], max_drop=1.0)
    assert found.best is not None and found.best.row["Recipe"] == "b"
    alone = only([row("baseline", 10.0, Outcome="failed"), unscored, row("c", 2.0, 4.0)], max_drop=1.0)
    assert alone.best is None and set(alone.binding) == {UNKNOWN_ACCURACY, "max-drop"}
    nothing = only([one | {"Held-out Change": None, "Accuracy Change": None} for one in GRID])
    assert nothing.best is not None and "no accuracy is known" in nothing.chosen_on


def test_the_highest_rate_decides_and_an_invalid_run_does_not() -> None:
    rates = {"baseline": 100.0, "a": 150.0, "b": 300.0, "d": 200.0}
    served = [
        one | {"Rate (1/s)": rates[one["Recipe"]], "Rate Searched": True, "Valid": one["Recipe"] != "b"}
        for one in GRID
        if one["Recipe"] in rates
    ]
    found = only(served, max_drop=1.0)
    assert found.best is not None and found.best.row["Recipe"] == "d", "b is invalid, a and the baseline held less"
    assert "200 calls a second" in text(found, "RUN")[1]
    refused = only([one for one in served if one["Recipe"] == "b"], max_drop=1.0)
    assert refused.best is None and refused.binding == [INVALID]


def test_a_choice_that_breaks_its_bound_when_measured_again_is_told() -> None:
    found = only(GRID, max_drop=1.0, p99_seconds=0.010)
    assert found.best is not None and found.best.row["Recipe"] == "b"
    again = found.best.row | {"P99 (ms)": 12.0}
    assert broken_again(found, again) == {"p99": pytest.approx(0.2)}
    assert "Measured again it breaks p99 by 20% of its bound." in text(found, "RUN", again)
    assert broken_again(found, found.best.row) == {} == broken_again(found, {"Error": "gone"})


@pytest.mark.parametrize(
    ("column", "why"),
    [("Artifact Works", "its artifact, which gives wrong outputs or none"),
     ("Baseline Verified", "its baseline, which was not found to compute the model")],
)  # fmt: skip
def test_what_cannot_be_relied_on_is_never_recommended(column: str, why: str) -> None:
    fastest = row("fast", 1.0)
    assert only([*GRID, fastest | {column: True}], max_drop=1.0).best.row["Recipe"] == "fast"  # type: ignore[union-attr]
    found = only([*GRID, fastest | {column: False}], max_drop=1.0)
    assert found.best is not None and found.best.row["Recipe"] == "b"
    assert "fast" not in [one.row["Recipe"] for one in found.runners_up]
    alone = only([fastest | {column: False}], max_drop=1.0)
    assert alone.best is None and alone.binding == [why]
    assert alone.nearest is not None and alone.nearest.violations == {why: math.inf}
    lines = text(alone, "RUN")
    assert lines[1] == f"No cell is feasible; what binds is {why}." and f"which breaks {why}: 1.000 ms" in lines[2]
    told = as_json(alone, None)
    assert (told["best"], told["binding"]) == (None, [why]) and told["nearest"]["Recipe"] == "fast"


@pytest.mark.parametrize(
    ("measured", "times"),
    [([False, False, False, True], 3), ([False, True], 2), ([True], 1), ([None], 1), (["gone", True], 1)],
    ids=["never", "later", "at once", "not known", "error"],
)
def test_an_unstable_choice_is_measured_again_at_most_so_often(
    measured: list[Any], times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last measurement counts; what was measured without an error is not measured by a later call."""
    ledger = Ledger(tmp_path / FILE)
    ledger.record_cells([("b", "ok", "", row("b", 1.0))])
    ledger.describe({"cell b": '{"measure": "m"}'})
    ledger.close()
    calls: list[Any] = []

    class Fake:
        def __init__(self, *_: object) -> None: ...

        def confirm(self) -> Any:
            calls.append(measured[len(calls)])
            if calls[-1] == "gone":
                raise Failed("gone")
            return calls[-1]

    monkeypatch.setattr(run, "Again", Fake)
    monkeypatch.setattr(run, "confirmed_row", lambda row, stable, store: {"Stable": stable, "Call": len(calls)})
    found, said = [only([row("b", 1.0)])], list[str]()
    run._confirm(tmp_path, found, None, None, said.append)  # type: ignore[arg-type]
    assert run.REMEASUREMENTS == 3 and len(calls) == len(said) == times and "after the choice" in said[0]
    kept = {"Error": "gone"} if calls[-1] == "gone" else {"Stable": calls[-1], "Call": times}
    assert run.confirmed(tmp_path, found[0]) == kept
    run._confirm(tmp_path, found, None, None, said.append)  # type: ignore[arg-type]
    assert len(calls) == times + ("Error" in kept), "where it could not be measured it is tried again"


def test_different_targets_are_told_apart_only_beyond_what_sessions_differ() -> None:
    a, near, far = (Candidate(row=row("a", ms, Target=t), cost=ms) for ms, t in ((5.0, "t"), (5.1, "u"), (5.5, "u")))
    assert not told_apart(a, near, Goal()) and told_apart(a, far, Goal())
    exact = [Candidate(row=row("a", ms), cost=ms, error=0.001) for ms in (5.0, 5.1)]
    assert told_apart(*exact, Goal()), "on one target the speed-ups' errors tell"


def layer(name: str, kind: str, precision: str, seconds: float, compute: bool = False) -> dict[str, Any]:
    return {
        "name": name,
        "type": kind,
        "precision": precision,
        "seconds": seconds,
        "compute": compute,
        "provider": "CPU",
    }


def results(
    *layers: dict[str, Any], nonzeros: int = 1000, copying: float | None = 1e10, launches: bool = False
) -> dict[str, dict[str, Any]]:
    statistics = {"parameters": "1000", "nonzeros": str(nonzeros), "macs": "500", "stateDictBytes": "4000"}
    profile: dict[str, Any] = {"tool": "a profiler", "calls": 5, "layers": list(layers), "launches": launches}
    return {
        "profile": profile | ({} if copying is None else {"copyBytesPerSecond": copying}),
        "build": {"engine": {"blob": {"size": "1000"}}},
        "baseline build": {"engine": {"blob": {"size": "4000"}}},
        "variant": {"statistics": statistics},
        "unpruned": {"statistics": statistics | {"macs": "1000"}},
    }


def test_why_says_where_the_time_goes() -> None:
    about = {
        "Speedup": 1.4, "Speedup Low": 1.3, "Speedup High": 1.5, "Precision": "INT8", "Inference Time (ms)": 10.0,
        "Pruner": "-", "Scenario": "single-stream",
    }  # fmt: skip
    found = explain(
        about,
        results(layer("c1", "Conv", "INT8", 0.003, True), layer("c2", "Conv", "FP32", 0.001, True), layer("q", "QuantizeLinear", "FP32", 0.002)),
    )  # fmt: skip
    assert (found.by_macs, found.by_bytes) == (2.0, 4.0) and found.fell_back == ["c2"]
    assert found.converting == pytest.approx(1 / 3) and found.outside == pytest.approx(0.4)
    assert found.precisions == pytest.approx({"INT8": 0.5, "FP32": 0.5})
    assert found.flags == ["host", "conversions", "fallback"]
    for words in ("1.40× as fast", "2.00× by its multiply-accumulates and 4.00× by its bytes", "33% goes into", "1 of 2 compute layers",
                  "40% of a call is outside"):  # fmt: skip
        assert words in found.text, found.text
    queued = explain(about | {"Scenario": "server"}, results(layer("c1", "Conv", "INT8", 0.003, True)))
    assert queued.outside is None and queued.flags == [], "a call that waits says nothing of its layers"


@pytest.mark.parametrize(
    ("executed", "at_once"),
    [({}, 1), ({"FP32": 3}, 1), ({"TF32": 3}, 1), ({"BF16": 3}, 2), ({"FP16": 1, "FP32": 9}, 2), ({"INT8": 1, "FP16": 9}, 4),
     ({"FP8": 3}, 4)],
)  # fmt: skip
def test_the_speed_up_in_theory_counts_products_at_once(executed: dict[str, int], at_once: int) -> None:
    """Half of the multiply-accumulates, each several at once, and a quarter of the bytes."""
    about = {"Speedup": 1.5, "Precision": "FP32", "Inference Time (ms)": 10.0, "Scenario": "single-stream"}
    told = results(layer("c", "Conv", "FP32", 0.01, True))
    told["build"]["executed"] = executed
    found = explain(about, told)
    assert (found.by_macs, found.by_bytes) == (2.0 * at_once, 4.0)
    assert f"in theory {2 * at_once:.2f}× by its multiply-accumulates and 4.00× by its bytes." in found.text
    del told["baseline build"], told["unpruned"]
    unknown = explain(about, told)
    assert (unknown.by_macs, unknown.by_bytes) == (None, None) and "theory" not in unknown.text


def test_why_says_of_the_baseline_that_it_is_one() -> None:
    about = {"Speedup": None, "Precision": "FP32", "Inference Time (ms)": 10.0, "Scenario": "single-stream"}
    told = results(layer("c", "Conv", "FP32", 0.01, True))
    assert explain(about | {"Baseline": True}, told).text.startswith("This is the baseline. Of the layers' time 100%")
    for other in ({"Baseline": False}, {"Baseline": True, "Speedup": 1.5}):
        assert "This is the baseline" not in explain(about | other, told).text


@pytest.mark.parametrize(
    ("precision", "share"),
    [("FP32", "100%"), ("FP16", "50%"), ("BF16", "50%"), ("INT8", "25%"), ("INT8_DYNAMIC", "25%"), ("FP8", "25%"),
     ("INT4", ""), ("", "100%")],
)  # fmt: skip
def test_reading_weights_counts_the_bits_of_what_was_asked_for(precision: str, share: str) -> None:
    """A thousand weights in a millisecond, where a copy moves four million bytes a second; an eighth is not told."""
    about = {"Precision": precision, "Inference Time (ms)": 1.0, "Scenario": "single-stream", "Speedup": 1.0}
    found = explain(about, results(layer("c", "Gemm", precision, 0.001, True), copying=4e6))
    assert ("memory" in found.flags) == (share == "100%")
    said = f"Reading the weights alone takes {share} of what a copy"
    assert said in found.text if share else "alone" not in found.text


def test_why_takes_launches_for_no_times_of_layers() -> None:
    about = {"Precision": "FP32", "Inference Time (ms)": 10.0, "Scenario": "single-stream"}
    found = explain(about, results(layer("c", "Conv", "FP32", 0.001, True), copying=None, launches=True))
    assert found.outside is None and found.converting is None and found.precisions == {} and found.flags == []
    assert "how long the host took to launch each layer" in found.text


def test_why_knows_memory_and_stored_zeros() -> None:
    about = {
        "Speedup": 1.0,
        "Speedup Low": 0.99,
        "Speedup High": 1.01,
        "Precision": "FP32",
        "Inference Time (ms)": 1.0,
        "Pruner": "l1-global",
        "Scenario": "single-stream",
    }
    found = explain(about, results(layer("c", "Gemm", "FP32", 0.001, True), nonzeros=400, copying=5e6))
    assert found.flags == ["memory"] and "60% of its weights are zeros" in found.text
    on_gpu = explain(about, results(layer("c", "Gemm", "FP32", 0.001, True), copying=None))
    assert on_gpu.flags == []


def test_tables_for_papers() -> None:
    rows = [row("a & b_c", 5.0) | {"Executed Precision": "INT8 10", "Engine (bytes)": 1500}]
    assert r"a \& b\_c" in latex(rows) and "5.000" in latex(rows) and latex(rows).count(r"\\") == 2
    assert table_in_markdown(rows).splitlines()[2].startswith("| m | a & b_c | t | 1 |")


def test_a_bound_finer_than_the_images_show_is_not_pretended() -> None:
    few = [one | {"Held-out Images": 6} for one in GRID]
    found = only(few, max_drop=1.0)
    lines = text(found, "RUN")
    assert lines[1].startswith("Not proven: b on t")
    assert lines[2] == "A loss of at most 1 points cannot be told on 6 images; 368 are needed."
    assert not is_proven(found) and as_json(found, None)["doubts"] == [lines[2]] and as_json(found, None)["images"] == 6
    assert "6 images, which show no loss under 45.93 points" in " ".join(lines)
    enough = only([one | {"Held-out Images": 368} for one in GRID], max_drop=1.0)
    assert is_proven(enough) and text(enough, "RUN")[1].startswith("Ship b")


def test_an_unstable_choice_says_so() -> None:
    shaky = {"Stable": False, "Unstable Because": "drift", "Reason": "", "Engine (bytes)": None}
    found = only([one | shaky for one in GRID], max_drop=1.0)
    assert "unstable" in text(found, "RUN")[1] and "Its times are unstable: drift." in text(found, "RUN")
    assert text(found, "RUN", found.best.row | {"Stable": True})[1].startswith("Ship")  # type: ignore[union-attr]
    assert summary([row("a", 1.0, **shaky), row("b", 1.0, Reason="")]).startswith("2 cells: 2 ok; 1 of them unstable")
    assert "ok (unstable)" in table_in_markdown([row("a", 1.0, **shaky)]) and "ok (unstable)" in latex(
        [row("a", 1.0, **shaky)]
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
    assert found.best is not None and found.best.row["Recipe"] == "fair" and found.chosen_on == HALF
    assert "accuracy 88.00 % on 400 images, -0.75 points (-1.50 to +0.00" in lines[1]
    assert "a half of the scoring split, whose other half reports: -0.50 points on 400 images" in lines[3]


def test_the_halves_are_seeded_stratified_and_apart() -> None:
    labels = np.repeat(np.arange(7), [1, 2, 3, 10, 11, 50, 80])
    chosen = selection_half(labels, 3)
    assert (chosen == selection_half(labels, 3)).all() and (chosen != selection_half(labels, 4)).any()
    for label in range(7):
        own = labels == label
        assert abs(int(chosen[own].sum()) - int((~chosen)[own].sum())) <= 1
    assert least_loss_shown(images_for(1.0)) <= 1.0 < least_loss_shown(images_for(1.0) - 1)


def test_two_runs_are_compared_by_speed_up_over_their_own_baselines() -> None:
    """The second machine is twice as slow: that is in both of its cells, and in no verdict."""
    paired = {"Paired": True, "Speedup": 2.0, "Speedup Low": 1.98, "Speedup High": 2.02}
    old = side(Session(row=session(1.0).row | paired, blocks=session(1.0).blocks))
    slower = session(2.0)
    new = Side(name="n", cells=side(Session(row=slower.row | paired, blocks=slower.blocks)).cells, run=Path("other"))
    same = changed(old, new)
    assert same.verdict == SAME and same.ratio is not None and same.ratio.value == pytest.approx(1.0)
    assert (same.old_speedup, same.new_speedup) == (pytest.approx(2.0), pytest.approx(2.0))
    worse = paired | {"Speedup": 1.5, "Speedup Low": 1.49, "Speedup High": 1.51}
    new = Side(name="n", cells=side(Session(row=slower.row | worse, blocks=slower.blocks)).cells, run=Path("other"))
    found = changed(old, new)
    assert found.verdict == WORSE and found.ratio is not None and found.ratio.value == pytest.approx(2 / 1.5)


def test_what_is_shown_is_what_is_compared() -> None:
    old, new = session(1.0), session(1.0)
    old, new = (Session(row=one.row, blocks=blocks) for one, blocks in ((old, [1e-3, 4e-3]), (new, [3e-3, 3.1e-3])))
    found = changed(side(old), Side(name="n", cells=side(new).cells))
    assert found.ratio is not None and found.old_ms is not None and found.new_ms is not None
    assert found.ratio.value == pytest.approx(found.new_ms / found.old_ms)
