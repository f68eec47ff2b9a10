"""The decision: the recipe to ship under constraints, what cannot be told from it, and what it costs.

Accuracy is judged on held-out training images, which no recipe was fitted to and which do not score; where a dataset
has no training split, on the split that scores, and the recommendation says so. The figures to quote are those of
the scoring split and of a measurement made after the choice.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from pqbench_orchestrator.manifest import Goal
from pqbench_orchestrator.tables import Row

GROUP = ("Model", "Dataset", "Batch Size", "Concurrency")
COST = {"latency": "Inference Time (ms)", "size": "Engine (bytes)", "energy": "Energy (mJ/image)"}
UNIT = {"latency": "ms", "size": "bytes", "energy": "mJ an image"}
CLOSE = 0.01  # costs that differ less are not told apart, however narrow their intervals
UNPAIRED_NOISE = 0.05  # by which latencies of different sessions differ without any reason


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A recipe on a target: its row, and its cost over all repeats.

    A latency is the target's baseline latency, over the whole run, by the paired speed-up: the cell's own median moves
    with the machine.
    """

    row: Row
    cost: float
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
    chosen_on: str = "held-out training images"


def recommend(rows: Iterable[Row], goal: Goal, keep: Callable[[Row], bool] = lambda _: True) -> list[Recommendation]:
    """A recommendation for each model, dataset, batch size and concurrency among the rows that `keep` lets through."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row["Outcome"] == "ok" and row.get("Inference Time (ms)") is not None and keep(row):
            groups[tuple(row.get(name) for name in GROUP)].append(row)
    return [_choose(dict(zip(GROUP, key, strict=True)), own, goal) for key, own in groups.items()]


def _choose(group: dict[str, Any], rows: Sequence[Row], goal: Goal) -> Recommendation:
    held_out = all(row.get("Held-out Change") is not None for row in rows)
    candidates = sorted(_candidates(rows, goal, held_out), key=lambda one: one.cost)
    feasible = [one for one in candidates if not one.violations]
    chosen_on = "held-out training images" if held_out else "the split that scores: there is no training split"
    if not feasible:
        nearest = min(candidates, key=lambda one: sum(one.violations.values()), default=None)
        return Recommendation(
            group=group, goal=goal, best=None, runners_up=[], nearest=nearest, binding=_binding(candidates),
            chosen_on=chosen_on,
        )  # fmt: skip
    best, *others = feasible
    alike = [one for one in others if not told_apart(best.row, one.row, goal)]
    return Recommendation(group=group, goal=goal, best=best, runners_up=alike, chosen_on=chosen_on)


def _candidates(rows: Sequence[Row], goal: Goal, held_out: bool) -> list[Candidate]:
    """One for each recipe and target; rows without a figure for the cost are none."""
    repeats: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        repeats[row["Recipe"], row["Target"]].append(row)
    references = {target: baseline_latency(rows, target) for target in {row["Target"] for row in rows}}
    made = []
    for own in repeats.values():
        costs = [cost for row in own if (cost := cost_of(row, goal, references[row["Target"]])) is not None]
        if costs:
            made.append(Candidate(row=own[0], cost=median(costs), violations=_violations(own, goal, held_out)))
    return made


def baseline_latency(rows: Sequence[Row], target: str) -> float | None:
    """The median of what all measurements on a target say of its baseline, in ms."""
    own = [row for row in rows if row["Target"] == target]
    times = [row["Baseline Time (ms)"] for row in own if row.get("Baseline Time (ms)") is not None]
    times += [row["Inference Time (ms)"] for row in own if row.get("Speedup") is None]
    return median(times) if times else None


def cost_of(row: Row, goal: Goal, baseline_ms: float | None) -> float | None:
    """What the goal minimizes, of one row; None where it is not known."""
    if goal.minimize == "latency" and baseline_ms is not None and row.get("Paired"):
        return float(baseline_ms / row["Speedup"])
    value = row.get(COST[goal.minimize])
    return None if value is None else float(value)


def _violations(rows: Sequence[Row], goal: Goal, held_out: bool) -> dict[str, float]:
    """How far each constraint is broken, as a share of its bound."""
    first, found = rows[0], {}
    change = first.get("Held-out Change" if held_out else "Accuracy Change") or 0.0  # the baseline's is none
    if -change > goal.max_drop:
        found["max-drop"] = (-change - goal.max_drop) / max(goal.max_drop, 0.1)
    bounds = (
        ("p99", max(row["P99 (ms)"] for row in rows) / 1e3, goal.p99_seconds),
        ("max-size", (first.get("Engine (bytes)") or 0) / 1e6, goal.max_megabytes),
    )
    for name, value, bound in bounds:
        if bound is not None and value > bound:
            found[name] = value / bound - 1
    return found


def _binding(candidates: Sequence[Candidate]) -> list[str]:
    """Constraints that alone keep everything out; all that are broken where no single one does."""
    names = sorted({name for one in candidates for name in one.violations})
    alone = [name for name in names if any(set(one.violations) == {name} for one in candidates)]
    return alone or names


def told_apart(best: Row, other: Row, goal: Goal) -> bool:
    """Whether another row's cost is higher beyond chance.

    Latencies on one target by their paired speed-ups over the same baseline; on different targets by their medians,
    which sessions make uncertain.
    """
    if goal.minimize != "latency":
        ratio = other[COST[goal.minimize]] / best[COST[goal.minimize]]
        return bool(ratio > 1 + (0 if goal.minimize == "size" else UNPAIRED_NOISE))
    if best["Target"] != other["Target"]:
        return bool(other["Inference Time (ms)"] > (1 + UNPAIRED_NOISE) * best["Inference Time (ms)"])
    (fast, fast_error), (slow, slow_error) = _log_speedup(best), _log_speedup(other)
    difference = fast - slow
    return difference > max(math.log1p(CLOSE), 1.96 * math.hypot(fast_error, slow_error))


def _log_speedup(row: Row) -> tuple[float, float]:
    """Logarithm of the paired speed-up and its standard error; the baseline's is 0, exactly."""
    if row.get("Speedup") is None:
        return 0.0, 0.0
    low, high = row.get("Speedup Low"), row.get("Speedup High")
    if not low or not high:
        return math.log(row["Speedup"]), math.inf
    return math.log(row["Speedup"]), (math.log(high) - math.log(low)) / (2 * 1.96)


def as_json(found: Recommendation, confirmed: Row | None) -> dict[str, Any]:
    """A recommendation for scripts."""
    return {
        "group": found.group,
        "goal": found.goal.model_dump(),
        "chosen_on": found.chosen_on,
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
    lines.append(f"Ship {row['Recipe']} on {row['Target']}: {figures(row)}.")
    if confirmed is None:
        lines.append("It was not measured again after the choice: these figures flatter it.")
    elif "Error" in confirmed:
        lines.append(f"It could not be measured again after the choice: {confirmed['Error']}.")
    else:
        lines.append(f"Measured again after the choice: {times(confirmed)}.")
    lines.append(f"Accuracy was judged on {found.chosen_on}{_held_out(row)}.")
    if found.runners_up:
        others = "; ".join(f"{one.row['Recipe']} on {one.row['Target']} ({times(one.row)})" for one in found.runners_up)
        lines.append(f"Not told apart from it: {others}.")
    lines.append(f"pqbench export {run} {row['Cell']} --out bundle")
    return lines


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
    if row.get("Accuracy") is not None:
        low, high = row.get("Accuracy Low"), row.get("Accuracy High")
        parts.append(f"accuracy {row['Accuracy']:.2f} % ({low:.2f}–{high:.2f})")
    if row.get("Accuracy Change") is not None:
        told = ", not told from the baseline" if row.get("Indistinguishable") else ""
        change = f"{row['Accuracy Change']:+.2f} points"
        parts.append(f"{change} ({row['Accuracy Change Low']:+.2f} to {row['Accuracy Change High']:+.2f}{told})")
    if row.get("Engine (bytes)"):
        parts.append(f"{row['Engine (bytes)'] / 1e6:.3f} MB")
    if row.get("Energy (mJ/image)") is not None:
        parts.append(f"{row['Energy (mJ/image)']:.2f} mJ an image")
    return ", ".join(parts)


def times(row: Row) -> str:
    """Median with interval, 99th percentile and speed-up of one row."""
    low, high = row["Median Low (ms)"], row["Median High (ms)"]
    shown = f"{row['Inference Time (ms)']:.3f} ms ({low:.3f}–{high:.3f}), p99 {row['P99 (ms)']:.3f} ms"
    if row.get("Speedup") is None:
        return shown
    interval = ""
    if row.get("Speedup High") is not None:
        interval = f" ({row['Speedup Low']:.2f}–{row['Speedup High']:.2f})"
    return f"{shown}, {row['Speedup']:.2f}× the baseline's speed{interval}"


def _held_out(row: Row) -> str:
    if row.get("Held-out Change") is None:
        return ""
    return f": {row['Held-out Change']:+.2f} points on {row['Held-out Images']}"


def _infeasible(found: Recommendation) -> list[str]:
    if found.nearest is None:
        return [f"No cell has a figure for {found.goal.minimize}."]
    broken = ", ".join(f"{name} by {share:.0%} of its bound" for name, share in found.nearest.violations.items())
    row = found.nearest.row
    return [
        f"No cell is feasible; what binds is {' and '.join(found.binding)}.",
        f"The nearest is {row['Recipe']} on {row['Target']}, which breaks {broken}: {figures(row)}.",
    ]
