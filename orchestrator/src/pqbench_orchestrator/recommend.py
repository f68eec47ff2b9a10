"""The decision: the recipe to ship under constraints, what cannot be told from it, and what it costs.

Accuracy is judged on images that nothing was fitted to: held-out training images for weights that pqbench trained
itself; a seeded half of the scoring split for others, which may have seen the training images, and then the other half
reports; or the whole scoring split. The recommendation says which, how many images judged, and what loss they can show.
The figures to quote are those of images that did not judge, and of a measurement made after the choice.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

from pqbench_orchestrator.manifest import Goal
from pqbench_orchestrator.stats import APART, NORMAL, TOLERANCE, images_for, least_loss_shown
from pqbench_orchestrator.tables import Row, speedup_error

GROUP = ("Model", "Dataset", "Batch Size", "Concurrency")
COST = {"latency": "Inference Time (ms)", "size": "Engine (bytes)", "energy": "Energy (mJ/image)"}
UNIT = {"latency": "ms", "size": "bytes", "energy": "mJ an image"}
UNKNOWN_ACCURACY, INVALID = "accuracy, which is not known", "validity: its server run is invalid"
COMPARED = "its baseline, which was not found to compute the model"
USELESS = "its artifact, which gives wrong outputs or none"
CHANCE = "accuracy above chance"
HELD_OUT = "held-out training images"
HALF = "a half of the scoring split, whose other half reports"
SCORED = "the split that scores: no other images were set aside for choices"
NOTHING = "nothing: no accuracy is known, so that max-drop could not be checked"


class Judge(NamedTuple):
    """The columns that say how a recipe did on images that judge."""

    accuracy: str
    change: str
    images: str


JUDGES = {  # the first that a run has
    HELD_OUT: Judge("Held-out Accuracy", "Held-out Change", "Held-out Images"),
    HALF: Judge("Selection Accuracy", "Selection Change", "Selection Images"),
    SCORED: Judge("Accuracy", "Accuracy Change", "Scored Images"),
}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A recipe on a target: its row, and its cost over all repeats.

    A latency is the target's baseline latency, over the whole run, by the paired speed-up: the cell's own median moves
    with the machine. Where the highest rate was searched, the cost is the time for a call at that rate.
    """

    row: Row
    cost: float
    error: float = math.inf  # standard error of the cost's logarithm against the target's baseline; infinite: unpaired
    violations: dict[str, float] = field(default_factory=dict)  # constraint -> by what share it is broken


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The answer for one model, dataset and batch size."""

    group: dict[str, Any]
    goal: Goal
    best: Candidate | None
    runners_up: list[Candidate]  # feasible, and not told apart from the best
    nearest: Candidate | None = None  # where nothing is feasible: the one that breaks the constraints least
    binding: list[str] = field(default_factory=list)  # constraints without which something would be feasible
    chosen_on: str = HELD_OUT


def recommend(rows: Iterable[Row], goal: Goal, keep: Callable[[Row], bool] = lambda _: True) -> list[Recommendation]:
    """A recommendation for each model, dataset, batch size and concurrency among the rows that `keep` lets through."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row["Outcome"] == "ok" and row.get("Inference Time (ms)") is not None and keep(row):
            groups[tuple(row.get(name) for name in GROUP)].append(row)
    return [_choose(dict(zip(GROUP, key, strict=True)), own, goal) for key, own in groups.items()]


def _choose(group: dict[str, Any], rows: Sequence[Row], goal: Goal) -> Recommendation:
    judged_on = chosen_on(rows)
    candidates = sorted(_candidates(rows, goal, judged_on), key=lambda one: one.cost)
    feasible = [one for one in candidates if not one.violations]
    if not feasible:
        nearest = min(candidates, key=lambda one: sum(one.violations.values()), default=None)
        return Recommendation(
            group=group, goal=goal, best=None, runners_up=[], nearest=nearest, binding=_binding(candidates),
            chosen_on=judged_on,
        )  # fmt: skip
    best, *others = feasible
    alike = [one for one in others if not told_apart(best, one, goal)]
    return Recommendation(group=group, goal=goal, best=best, runners_up=alike, chosen_on=judged_on)


def _change(row: Row, judged_on: str) -> float | None:
    """Points by which accuracy changed on the images that judge."""
    value = row.get(JUDGES[judged_on].change)
    return None if value is None else float(value)


def judges(row: Row, judged_on: str) -> int:
    """How many images judged; 0 where none did."""
    return 0 if judged_on == NOTHING else int(row.get(JUDGES[judged_on].images) or 0)


def chosen_on(rows: Sequence[Row]) -> str:
    """The images on which accuracy is judged."""
    for what, judge in JUDGES.items():
        if any(row.get(judge.change) is not None for row in rows if not row["Baseline"]):
            return what
    return SCORED if all(row["Baseline"] for row in rows) else NOTHING


def _candidates(rows: Sequence[Row], goal: Goal, judged_on: str) -> list[Candidate]:
    """One for each recipe and target; rows without a figure for the cost are none."""
    repeats: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        repeats[row["Recipe"], row["Target"]].append(row)
    references = {target: baseline_latency(rows, target) for target in {row["Target"] for row in rows}}
    made = []
    for own in repeats.values():
        reference = references[own[0]["Target"]]
        costs = [cost for row in own if (cost := cost_of(row, goal, reference)) is not None]
        if costs:
            made.append(
                Candidate(
                    row=own[0],
                    cost=median(costs),
                    error=_error(own, reference) if goal.minimize == "latency" else math.inf,
                    violations=violations(own, goal, judged_on),
                )
            )
    return made


def baseline_latency(rows: Sequence[Row], target: str) -> float | None:
    """The median of what all paired measurements on a target, and its own, say of its baseline, in ms.

    None where nothing was paired with it.
    """
    own = [row for row in rows if row["Target"] == target]
    times = [row["Baseline Time (ms)"] for row in own if row.get("Paired")]
    if not times:
        return None
    return median(times + [row["Inference Time (ms)"] for row in own if row["Baseline"]])


def cost_of(row: Row, goal: Goal, baseline_ms: float | None) -> float | None:
    """What the goal minimizes, of one row; None where it is not known. Of a rate that was searched: ms a call at it."""
    if goal.minimize == "latency" and row.get("Rate Searched"):
        return 1e3 / float(row["Rate (1/s)"])
    if goal.minimize == "latency" and baseline_ms is not None and (row["Baseline"] or row.get("Paired")):
        return baseline_ms if row["Baseline"] else float(baseline_ms / row["Speedup"])
    value = row.get(COST[goal.minimize])
    return None if value is None else float(value)


def _error(repeats: Sequence[Row], baseline_ms: float | None) -> float:
    """Of the mean of all repeats' logarithms; the baseline's is 0, exactly."""
    if baseline_ms is None:
        return math.inf
    if repeats[0]["Baseline"]:
        return 0.0
    return speedup_error(repeats)


def violations(rows: Sequence[Row], goal: Goal, judged_on: str) -> dict[str, float]:
    """How far a cell's repeats break each constraint, as a share of its bound; infinite where there is none."""
    first, found = rows[0], {}
    if judged_on != NOTHING and first.get("Classes") and (first.get("Accuracy Low") or 0.0) <= 100 / first["Classes"]:
        found[CHANCE] = math.inf
    if judged_on != NOTHING and not first["Baseline"]:
        change = _change(first, judged_on)
        if change is None:
            found[UNKNOWN_ACCURACY] = math.inf
        elif -change > goal.max_drop:
            found["max-drop"] = (-change - goal.max_drop) / max(goal.max_drop, 0.1)
    if first.get("Baseline Verified") is False:
        found[COMPARED] = math.inf
    if first.get("Artifact Works") is False:
        found[USELESS] = math.inf
    if any(row.get("Valid") is False for row in rows):
        found[INVALID] = math.inf
    bounds = (
        ("p99", max(row["P99 (ms)"] for row in rows) / 1e3, goal.p99_seconds),
        ("max-size", (first.get("Engine (bytes)") or 0) / 1e6, goal.max_megabytes),
    )
    for name, value, bound in bounds:
        if bound is not None and value > bound:
            found[name] = value / bound - 1
    return found


def broken_again(found: Recommendation, confirmed: Row | None) -> dict[str, float]:
    """What the measurement after the choice says is broken of the constraints on time."""
    if found.best is None or confirmed is None or "Error" in confirmed:
        return {}
    return violations([found.best.row | confirmed], found.goal, NOTHING)


def _binding(candidates: Sequence[Candidate]) -> list[str]:
    """Constraints that alone keep everything out; all that are broken where no single one does."""
    names = sorted({name for one in candidates for name in one.violations})
    alone = [name for name in names if any(set(one.violations) == {name} for one in candidates)]
    return alone or names


def told_apart(best: Candidate, other: Candidate, goal: Goal) -> bool:
    """Whether another candidate's cost is higher beyond chance.

    Latencies on one target by their paired speed-ups over the same baseline; what was measured apart by a margin for
    what sessions differ.
    """
    difference = math.log(other.cost / best.cost)
    if goal.minimize == "size":
        return difference > 0
    error = math.hypot(best.error, other.error) if best.row["Target"] == other.row["Target"] else math.inf
    if math.isinf(error):
        return difference > math.log1p(APART)
    return difference > max(math.log1p(TOLERANCE), NORMAL * error)


def as_json(found: Recommendation, confirmed: Row | None) -> dict[str, Any]:
    """A recommendation for scripts."""
    images = judges(found.best.row, found.chosen_on) if found.best else None
    return {
        "group": found.group,
        "goal": found.goal.model_dump(),
        "chosen_on": found.chosen_on,
        "images": images,
        "least_loss_shown": least_loss_shown(images) if images else None,
        "proven": is_proven(found) if found.best else None,
        "stable": _settled(found.best.row, confirmed).get("Stable") if found.best else None,
        "doubts": doubts_of(found, confirmed) if found.best else [],
        "best": found.best.row if found.best else None,
        "confirmed": confirmed,
        "runners_up": [one.row for one in found.runners_up],
        "nearest": found.nearest.row if found.nearest else None,
        "binding": found.binding,
    }


def text(found: Recommendation, run: str, confirmed: Row | None = None) -> list[str]:
    """The recommendation as lines. `confirmed`: what a measurement after the choice says of the best."""
    where = ", ".join(f"{name.lower()} {value}" for name, value in found.group.items() if value is not None)
    lines = [f"{where}: minimize {found.goal.minimize} with {constraints(found.goal)}"]
    if found.best is None:
        return [*lines, *_infeasible(found)]
    row = found.best.row
    doubts = doubts_of(found, confirmed)
    lines.append(f"{'Ship' if is_proven(found) else 'Not proven:'} {row['Recipe']} on {row['Target']}: {figures(row)}.")
    lines += doubts
    if confirmed is None:
        lines.append("It was not measured again after the choice: these figures flatter it.")
    elif "Error" in confirmed:
        lines.append(f"It could not be measured again after the choice: {confirmed['Error']}.")
    else:
        lines.append(f"Measured again after the choice: {times(confirmed)}.")
        if broken := broken_again(found, confirmed):
            lines.append(f"Measured again it breaks {_shares(broken)}.")
    lines.append(f"Accuracy was judged on {found.chosen_on}{_judged(row, found.chosen_on)}.")
    if found.runners_up:
        others = "; ".join(f"{one.row['Recipe']} on {one.row['Target']} ({times(one.row)})" for one in found.runners_up)
        lines.append(f"Not told apart from it: {others}.")
    lines.append(f"pqbench export {run} {row['Cell']} --out bundle")
    return lines


def doubts_of(found: Recommendation, confirmed: Row | None) -> list[str]:
    """What keeps the best from being relied on: too few images for the bound, times that do not settle, warnings."""
    assert found.best is not None
    row, doubts = found.best.row, []
    images, bound = judges(row, found.chosen_on), found.goal.max_drop
    if not is_proven(found):
        needed = f"; {images_for(bound)} are needed" if bound else ""
        doubts.append(f"A loss of at most {bound:g} points cannot be told on {images} images{needed}.")
    low = row.get(f"{JUDGES[found.chosen_on].change} Low") if images else None
    if low is not None and not row["Baseline"] and low < -bound:
        doubts.append(f"By its interval a loss of {-low:.2f} points is not excluded.")
    last = _settled(row, confirmed)
    if last.get("Stable") is False:
        doubts.append(f"Its times are unstable: {last.get('Unstable Because')}.")
    if row.get("Warnings"):
        doubts.append(f"Warning: {row['Warnings']}.")
    return doubts


def _settled(row: Row, confirmed: Row | None) -> Row:
    """The times that count: those measured after the choice, where there are any."""
    return confirmed if confirmed is not None and "Error" not in confirmed else row


def is_proven(found: Recommendation) -> bool:
    """Whether the images that judged are enough for the bound on accuracy."""
    assert found.best is not None
    images = judges(found.best.row, found.chosen_on)
    return bool(found.best.row["Baseline"]) or not images or least_loss_shown(images) <= found.goal.max_drop


def constraints(goal: Goal) -> str:
    """The constraints in words."""
    parts = [f"at most {goal.max_drop:g} points of accuracy lost"]
    if goal.p99_seconds is not None:
        parts.append(f"p99 at most {goal.p99_seconds * 1e3:g} ms")
    if goal.max_megabytes is not None:
        parts.append(f"at most {goal.max_megabytes:g} MB")
    return ", ".join(parts)


def figures(row: Row) -> str:
    """Times, accuracy with its interval and cost, size of one row."""
    parts = [times(row)]
    reports = "Report " if row.get("Report Accuracy") is not None else ""
    accuracy, change = row.get(f"{reports}Accuracy"), row.get(f"{reports or 'Accuracy '}Change")
    if accuracy is not None:
        low, high = row.get("Accuracy Low"), row.get("Accuracy High")
        interval = "" if low is None or high is None or reports else f" ({low:.2f}–{high:.2f})"
        on = f" on {row['Report Images']} images" if reports else ""
        parts.append(f"accuracy {accuracy:.2f} %{interval}{on}")
    if change is not None and not row["Baseline"]:
        low, high = row[f"{reports or 'Accuracy '}Change Low"], row[f"{reports or 'Accuracy '}Change High"]
        told = ", not told from the baseline" if row.get("Indistinguishable") else ""
        parts.append(f"{change:+.2f} points ({low:+.2f} to {high:+.2f}{told})")
    if row.get("Engine (bytes)"):
        parts.append(f"{row['Engine (bytes)'] / 1e6:.3f} MB")
    if row.get("Energy (mJ/image)") is not None:
        parts.append(f"{row['Energy (mJ/image)']:.2f} mJ an image")
    return ", ".join(parts)


def times(row: Row) -> str:
    """Median with interval, 99th percentile and speed-up of one row."""
    low, high = row["Median Low (ms)"], row["Median High (ms)"]
    shown = f"{row['Inference Time (ms)']:.3f} ms ({low:.3f}–{high:.3f}), p99 {row['P99 (ms)']:.3f} ms"
    if row.get("Rate (1/s)") is not None:
        shown += f", {row['Rate (1/s)']:.4g} calls a second"
    if row.get("Speedup") is None:
        return shown + (", unstable" if row.get("Stable") is False else "")
    interval = ""
    if row.get("Speedup High") is not None:
        interval = f" ({row['Speedup Low']:.2f}–{row['Speedup High']:.2f})"
    unstable = ", unstable" if row.get("Stable") is False else ""
    return f"{shown}, {row['Speedup']:.2f}× the baseline's speed{interval}{unstable}"


def _judged(row: Row, judged_on: str) -> str:
    """What the images that judged say, and the smallest loss that so many can show."""
    images = judges(row, judged_on)
    if not images:
        return ""
    change = _change(row, judged_on)
    said = "" if change is None or row["Baseline"] else f"{change:+.2f} points on "
    return f": {said}{images} images, which show no loss under {least_loss_shown(images):.2f} points"


def _infeasible(found: Recommendation) -> list[str]:
    if found.nearest is None:
        return [f"No cell has a figure for {found.goal.minimize}."]
    row = found.nearest.row
    return [
        f"No cell is feasible; what binds is {' and '.join(found.binding)}.",
        f"The nearest is {row['Recipe']} on {row['Target']}, "
        f"which breaks {_shares(found.nearest.violations)}: {figures(row)}.",
    ]


def _shares(broken: dict[str, float]) -> str:
    return ", ".join(n if math.isinf(share) else f"{n} by {share:.0%} of its bound" for n, share in broken.items())
