"""Recommends the recipe to ship under constraints, with those that are statistically indistinguishable from it.

Accuracy is judged on images that nothing was fitted to. For weights that pqbench trained itself, they are held-out
training images. Other weights may have been trained on the training images; for them it is one half of the test split,
drawn with the seed, and the other half gives the accuracy that is reported. The manifest may also choose the whole test
split. Of recipes whose costs are statistically indistinguishable, the one that loses the least accuracy is recommended.
The recommendation says which images judged, how many they are, and which loss they can show. The figures to quote are
those of images that did not judge, and times of a measurement made after the choice, because the figures by which a
recipe is chosen are biased in its favour.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from pqbench_orchestrator.config.manifest import Goal
from pqbench_orchestrator.results.cell import CellResult, Confirmation, PartAccuracy, Timing
from pqbench_orchestrator.results.timing import speedup_error
from pqbench_orchestrator.statistics import APART, NORMAL, TOLERANCE, images_for, least_loss_shown

UNKNOWN_ACCURACY, INVALID = "accuracy (not known)", "validity (its server run is invalid)"
UNKNOWN_TIMES = "p99 (not known)"
COMPARED = "baseline (not verified against the model)"
USELESS = "artifact (wrong outputs or none)"
CHANCE = "accuracy above chance"
HELD_OUT = "held-out training images"
HALF = "one half of the scoring split (the other half gives the reported accuracy)"
SCORED = "the whole scoring split (no images were set aside for selection)"
SMALLEST_LOSS = 0.01  # points
NOTHING = "nothing: no accuracy is known, so that max-drop could not be checked"


class Group(NamedTuple):
    """What the cells of one group have in common; there is one recommendation for each group."""

    model: str
    dataset: str
    batch_size: int
    concurrency: int


class Judgement(NamedTuple):
    """A recipe's accuracy on the images that judge."""

    percent: float
    images: int
    change: float | None  # against the baseline, in points; None where it was not compared
    change_low: float | None  # lower end of its 95 % interval


def _of_whole(cell: CellResult) -> Judgement | None:
    found = cell.accuracy
    if found is None or found.top1_percent is None:
        return None
    points, low = (found.change.points, found.change.low) if found.change else (None, None)
    return Judgement(found.top1_percent, found.images or 0, points, low)


def _of_part(part: PartAccuracy | None) -> Judgement | None:
    return Judgement(part.percent, part.images, part.change.points, part.change.low) if part else None


JUDGES: dict[str, Callable[[CellResult], Judgement | None]] = {  # the first that a run has results for
    HELD_OUT: lambda cell: _of_part(cell.held_out),
    HALF: lambda cell: _of_part(cell.selection),
    SCORED: _of_whole,
}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A recipe on a target: the cell of its first repeat, and its cost, the median over all repeats.

    The cost is in ms, bytes or mJ per image. A latency is the target's baseline latency over the whole run divided by
    the cell's paired speed-up, because a cell's own median drifts with the machine. Where the highest rate was
    searched, the cost is the time for a call at this rate.
    """

    cell: CellResult
    cost: float
    error: float = math.inf  # standard error of the logarithm of a paired speed-up; infinite where there is none
    violations: dict[str, float] = field(default_factory=dict)  # broken constraint -> excess as a share of its bound


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The answer for one group of cells."""

    group: Group
    goal: Goal
    best: Candidate | None
    runners_up: list[Candidate]  # feasible, and statistically indistinguishable in cost from the one of least cost
    nearest: Candidate | None = None  # where nothing is feasible: the one that breaks the constraints least
    binding: list[str] = field(default_factory=list)  # where nothing is feasible: the constraints that prevent it
    judged_on: str = HELD_OUT  # HELD_OUT, HALF, SCORED or NOTHING

    @property
    def images(self) -> int:
        """On how many images the best was judged; 0 where accuracy is not known."""
        return judged_images(self.best.cell, self.judged_on) if self.best else 0

    @property
    def is_proven(self) -> bool:
        """Whether there is a best, and enough images judged it to show that the bound on accuracy is kept.

        True also where the best is the baseline, and where no accuracy is known, so that none could be judged. False
        for an engine that was only built.
        """
        if self.best is None or self.best.cell.is_built_only:
            return False
        return self.best.cell.is_baseline or not self.images or least_loss_shown(self.images) <= self.goal.max_drop


def recommend(
    cells: Iterable[CellResult], goal: Goal, keep: Callable[[CellResult], bool] = lambda _: True
) -> list[Recommendation]:
    """A recommendation for each model, dataset, batch size and concurrency.

    Only cells that are ok and timed, and for which `keep` is true, are considered; by size also engines that were
    built and not measured, of which times and accuracy are not known.
    """
    groups: dict[Group, list[CellResult]] = defaultdict(list)
    for cell in cells:
        is_measured = cell.is_ok and cell.median_ms is not None
        if (is_measured or (goal.minimize == "size" and cell.is_built_only)) and keep(cell):
            groups[Group(cell.model, cell.dataset, cell.batch_size, cell.concurrency)].append(cell)
    return [_choose(group, members, goal) for group, members in groups.items()]


def _choose(group: Group, cells: Sequence[CellResult], goal: Goal) -> Recommendation:
    judged = judged_on(cells)
    candidates = sorted(_candidates(cells, goal, judged), key=lambda one: one.cost)
    feasible = [one for one in candidates if not one.violations]
    if not feasible:
        nearest = min(candidates, key=lambda one: sum(one.violations.values()), default=None)
        return Recommendation(
            group=group, goal=goal, best=None, runners_up=[], nearest=nearest, binding=_binding(candidates),
            judged_on=judged,
        )  # fmt: skip
    first, *others = feasible
    alike = [first, *(one for one in others if not is_distinguishable(first, one, goal))]
    best = min(alike, key=lambda one: _loss(one.cell, goal, judged))
    runners_up = [one for one in alike if one is not best]
    return Recommendation(group=group, goal=goal, best=best, runners_up=runners_up, judged_on=judged)


def _loss(cell: CellResult, goal: Goal, judged: str) -> int:
    """The accuracy that a feasible cell loses, in quarters of the goal's bound; smaller differences do not decide."""
    found = None if cell.is_baseline else judgement(cell, judged)
    lost = max(0.0, -found.change) if found and found.change is not None else 0.0
    return round(lost / max(goal.max_drop / 4, SMALLEST_LOSS))


def judgement(cell: CellResult, judged: str) -> Judgement | None:
    """A cell's accuracy on the images that judge, `judged` as `judged_on` gives it; None where it is not known."""
    return None if judged == NOTHING else JUDGES[judged](cell)


def judged_images(cell: CellResult, judged: str) -> int:
    """On how many images a cell was judged; 0 where its accuracy on them is not known."""
    found = judgement(cell, judged)
    return found.images if found else 0


def judged_on(cells: Sequence[CellResult]) -> str:
    """The images on which these cells' accuracy is judged: HELD_OUT, HALF, SCORED or, without any, NOTHING."""
    variants = [cell for cell in cells if not cell.is_baseline]
    for what, judge in JUDGES.items():
        found = [one for cell in variants or cells if (one := judge(cell)) is not None]
        if any(one.change is not None or not variants for one in found):
            return what
    return NOTHING


def judged_percent(cell: CellResult) -> float:
    """A cell's accuracy in percent on the first kind of judging images for which it is known; 0 where none is."""
    found = (judge(cell) for judge in JUDGES.values())
    return next((one.percent for one in found if one is not None), 0.0)


def _candidates(cells: Sequence[CellResult], goal: Goal, judged: str) -> list[Candidate]:
    """A candidate for each recipe and target whose cost is known."""
    repeats: dict[tuple[str, str], list[CellResult]] = defaultdict(list)
    for cell in cells:
        repeats[cell.recipe, cell.target].append(cell)
    references = {target: baseline_latency(cells, target) for target in {cell.target for cell in cells}}
    found = []
    for members in repeats.values():
        reference = references[members[0].target]
        costs = [cost for cell in members if (cost := cost_of(cell, goal, reference)) is not None]
        if costs:
            error = _error(members, reference) if goal.minimize == "latency" else math.inf
            broken = violations(members, goal, judged)
            found.append(Candidate(cell=members[0], cost=median(costs), error=error, violations=broken))
    return found


def baseline_latency(cells: Sequence[CellResult], target: str) -> float | None:
    """The baseline's latency on a target, in ms: the median over all measurements paired with it and its own.

    None where no measurement was paired with it.
    """
    members = [cell for cell in cells if cell.target == target]
    paired = [one for cell in members if (one := cell.comparison) is not None and one.is_paired]
    times = [one.baseline_ms for one in paired if one.baseline_ms is not None]
    if not times:
        return None
    own = [cell.median_ms for cell in members if cell.is_baseline and cell.median_ms is not None]
    return median([*times, *own])


def cost_of(cell: CellResult, goal: Goal, baseline_ms: float | None) -> float | None:
    """What the goal minimizes, as `Candidate.cost`; None where it is not known.

    `baseline_ms`: the baseline's latency on the cell's target over the whole run.
    """
    if goal.minimize == "latency" and cell.server is not None and cell.server.is_searched:
        return 1e3 / cell.server.rate_per_s
    if goal.minimize == "latency" and baseline_ms is not None and cell.is_baseline:
        return baseline_ms
    if goal.minimize == "latency" and baseline_ms is not None and cell.is_paired and cell.speedup:
        return baseline_ms / cell.speedup
    return own_cost(cell, goal)


def own_cost(cell: CellResult, goal: Goal) -> float | None:
    """The cell's own figure for what the goal minimizes: ms, bytes, or mJ per image; None where it is not known."""
    if goal.minimize == "size":
        return cell.engine_bytes
    if goal.minimize == "energy":
        return cell.timing.energy.mj_per_image if cell.timing and cell.timing.energy else None
    return cell.median_ms


def _error(repeats: Sequence[CellResult], baseline_ms: float | None) -> float:
    """The standard error of the mean logarithm of the repeats' speed-ups; exactly 0 for the baseline."""
    if baseline_ms is None:
        return math.inf
    if repeats[0].is_baseline:
        return 0.0
    return speedup_error([cell.comparison for cell in repeats])


def violations(cells: Sequence[CellResult], goal: Goal, judged: str) -> dict[str, float]:
    """The constraints that a cell's repeats break, each with its excess as a share of the bound.

    The excess is infinite for constraints without a bound, such as an accuracy that is not known.
    """
    first = cells[0]
    found = {} if judged == NOTHING else _accuracy_violations(first, goal, judged)
    if first.fidelity.is_baseline_verified is False:
        found[COMPARED] = math.inf
    if first.fidelity.artifact_works is False:
        found[USELESS] = math.inf
    if any(cell.is_invalid for cell in cells):
        found[INVALID] = math.inf
    if first.is_built_only and goal.p99_seconds is not None:
        found[UNKNOWN_TIMES] = math.inf
    p99 = max(((cell.timing.p99_ms or 0.0) if cell.timing else 0.0) for cell in cells)
    bounds = (
        ("p99", p99 / 1e3, goal.p99_seconds),
        ("max-size", (first.engine_bytes or 0) / 1e6, goal.max_megabytes),
    )
    for name, value, bound in bounds:
        if bound is not None and value > bound:
            found[name] = value / bound - 1
    return found


def _accuracy_violations(cell: CellResult, goal: Goal, judged: str) -> dict[str, float]:
    found, accuracy = {}, cell.accuracy
    if accuracy is not None and accuracy.classes and (accuracy.low_percent or 0.0) <= 100 / accuracy.classes:
        found[CHANCE] = math.inf
    if cell.is_baseline:
        return found
    judged_cell = judgement(cell, judged)
    change = judged_cell.change if judged_cell else None
    if change is None:
        found[UNKNOWN_ACCURACY] = math.inf
    elif -change > goal.max_drop:
        found["max-drop"] = (-change - goal.max_drop) / max(goal.max_drop, 0.1)
    return found


def broken_again(found: Recommendation, confirmed: Confirmation | None) -> dict[str, float]:
    """The constraints that the best breaks with the times of the measurement after the choice, as `violations`.

    Accuracy is not judged again. Empty where there are no such times.
    """
    if found.best is None or confirmed is None or confirmed.timing is None:
        return {}
    return violations([dataclasses.replace(found.best.cell, timing=confirmed.timing)], found.goal, NOTHING)


def _binding(candidates: Sequence[Candidate]) -> list[str]:
    """The constraints that are some candidate's only broken one; where there are none, all that are broken."""
    names = sorted({name for one in candidates for name in one.violations})
    alone = [name for name in names if any(set(one.violations) == {name} for one in candidates)]
    return alone or names


def is_distinguishable(best: Candidate, other: Candidate, goal: Goal) -> bool:
    """Whether another candidate's cost is higher than the best's beyond chance.

    Sizes differ if they are not equal. Latencies on one target are compared by their paired speed-ups over the same
    baseline. Anything else was measured separately and must differ by more than APART.
    """
    difference = math.log(other.cost / best.cost)
    if goal.minimize == "size":
        return difference > 0
    error = math.hypot(best.error, other.error) if best.cell.target == other.cell.target else math.inf
    if math.isinf(error):
        return difference > math.log1p(APART)
    return difference > max(math.log1p(TOLERANCE), NORMAL * error)


@dataclass(frozen=True, kw_only=True)
class Doubts:
    """Reasons not to rely on a recommended cell; None for each that does not apply."""

    not_measured: str | None = None  # why it was only built
    images_needed: int | None = None  # too few images judged for the bound: how many are needed; 0: no number suffices
    loss_not_excluded: float | None = None  # a loss in points, larger than the bound, that the interval allows
    unstable_reason: str | None = None  # why its times are unstable
    warnings: str | None = None  # of its fidelity


def doubts_of(found: Recommendation, confirmed: Confirmation | None) -> Doubts:
    """The doubts about the best of a recommendation, which must have one."""
    assert found.best is not None
    cell, bound = found.best.cell, found.goal.max_drop
    if cell.is_built_only:
        return Doubts(not_measured=cell.reason)
    judged = judgement(cell, found.judged_on) if found.images else None
    low = judged.change_low if judged and not cell.is_baseline else None
    timing = last_timing(found.best, confirmed)
    return Doubts(
        images_needed=None if found.is_proven else images_for(bound) if bound else 0,
        loss_not_excluded=-low if low is not None and low < -bound else None,
        unstable_reason=(timing.unstable_reason or "") if timing and timing.is_stable is False else None,
        warnings=cell.fidelity.warnings,
    )


def last_timing(best: Candidate, confirmed: Confirmation | None) -> Timing | None:
    """The times that count: those of the measurement after the choice if there are any, else those of the run."""
    return confirmed.timing if confirmed is not None and confirmed.timing is not None else best.cell.timing
