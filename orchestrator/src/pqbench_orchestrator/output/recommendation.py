"""Recommendations as text, and as JSON for scripts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pqbench_orchestrator.config.manifest import Goal
from pqbench_orchestrator.decide.recommend import (
    HALF,
    Candidate,
    Doubts,
    Recommendation,
    broken_again,
    doubts_of,
    judged_images,
    judgement,
    last_timing,
)
from pqbench_orchestrator.results.cell import Accuracy, CellResult, Comparison, PartAccuracy, Timing
from pqbench_orchestrator.results.cell import Confirmation as Confirmed
from pqbench_orchestrator.results.tables import Record, as_records, confirmation_as_record, title_of
from pqbench_orchestrator.statistics import least_loss_shown
from pqbench_orchestrator.store.run_folder import RunFolder

MOST_WHOLE = 3  # recommendations that a run's answer shows whole


def as_json(found: Recommendation, confirmed: Confirmed | None, run: RunFolder) -> dict[str, Any]:
    """A recommendation as JSON values; `confirmed`: the measurement of the best cell after the choice, if any."""
    best = found.best

    def record(one: Candidate | None) -> Record | None:
        return as_records([one.cell], run.name, run.started_at)[0] if one else None

    timing = last_timing(best, confirmed) if best else None
    images = found.images if best else None
    return {
        "group": found.group._asdict(),
        "goal": found.goal.model_dump(),
        "chosen_on": found.judged_on,
        "images": images,
        "least_loss_shown": least_loss_shown(images) if images else None,
        "proven": found.is_proven if best else None,
        "stable": timing.is_stable if timing else None,
        "doubts": _doubts(found, doubts_of(found, confirmed)) if best else [],
        "best": record(best),
        "confirmed": confirmation_as_record(confirmed) if confirmed else None,
        "runners_up": [record(one) for one in found.runners_up],
        "nearest": record(found.nearest),
        "binding": found.binding,
    }


def text(found: Recommendation, run: str, confirmed: Confirmed | None = None) -> list[str]:
    """The recommendation as lines of text; `confirmed`: the measurement of the best cell after the choice, if any.

    `run`: the run's folder, for the command that exports the cell.
    """
    where = ", ".join(f"{name.lower()} {value}" for name, value in _group(found).items())
    lines = [f"{where}: minimize {found.goal.minimize} with {constraints(found.goal)}"]
    if found.best is None:
        return [*lines, *evidence(found, confirmed)]
    cell = found.best.cell
    if cell.is_built_only:
        return [
            *lines,
            f"Smallest: {cell.recipe} on {cell.target}: {figures(cell)}.",
            *evidence(found, confirmed),
        ]
    to_quote = dataclasses.replace(cell, timing=last_timing(found.best, confirmed))
    return [
        *lines,
        f"{verb(found)} {cell.recipe} on {cell.target}{reservation(found)}: {figures(to_quote)}.",
        *evidence(found, confirmed),
        *_runners_up(found),
        f"pqbench export {run} {cell.key} --out bundle",
    ]


def verb(found: Recommendation) -> str:
    """What to do with the best of a recommendation, as the first word of its headline."""
    return "Ship" if found.is_proven else "Not proven:"


def reservation(found: Recommendation) -> str:
    """In brackets, the loss beyond the bound that the best's interval allows; empty where it allows none."""
    lost = doubts_of(found, None).loss_not_excluded
    return "" if lost is None else f" (a loss of up to {lost:.2f} points is not excluded)"


def evidence(found: Recommendation, confirmed: Confirmed | None) -> list[str]:
    """How sure the choice is, in sentences: doubts, the measurement after the choice, what accuracy was judged on.

    Where nothing is feasible: what binds, and the nearest cell.
    """
    if found.best is None:
        return _infeasible(found)
    doubts = _doubts(found, doubts_of(found, confirmed))
    if found.best.cell.is_built_only:
        return doubts
    judged = f"Accuracy was judged on {found.judged_on}{_judged(found.best.cell, found.judged_on)}."
    return [*doubts, *_confirmation(found, confirmed), judged]


def answer(found: Sequence[tuple[Recommendation, Confirmed | None]], run: str) -> list[list[str]]:
    """A run's answer, the lines of each recommendation; of more than a few, one line each."""
    if len(found) <= MOST_WHOLE:
        return [text(one, run, confirmed) for one, confirmed in found]
    return [[*(_in_one_line(one, confirmed) for one, confirmed in found), f"pqbench recommend {run} tells more"]]


def _in_one_line(found: Recommendation, confirmed: Confirmed | None) -> str:
    group = found.group
    where = f"{group.model}, {group.dataset}, batch {group.batch_size}"
    where += f", {group.concurrency} at once" if group.concurrency > 1 else ""
    if found.best is None:
        return f"{where}: nothing is feasible"
    cell, timing = found.best.cell, last_timing(found.best, confirmed)
    again = ", measured again" if confirmed is not None and confirmed.timing is not None else ""
    change = cell.accuracy.change if cell.accuracy else None
    parts = [
        f"{timing.comparison.speedup:.2f}×" if timing and timing.comparison and timing.comparison.speedup else "",
        f"{change.points:+.2f} points" if change and not cell.is_baseline else "",
        f"{cell.engine_bytes / 1e6:.2f} MB" if cell.engine_bytes else "",
        f"{'unstable' if timing.is_stable is False else 'stable'}{again}" if timing else "not measured",
    ]
    known = ", ".join(part for part in parts if part)
    return (
        f"{where}: {verb(found).lower()} {cell.recipe} on {cell.target}{reservation(found)}, {known} [{cell.short_key}]"
    )


def constraints(goal: Goal) -> str:
    """A goal's constraints in words."""
    parts = [f"at most {goal.max_drop:g} points of accuracy lost"]
    if goal.p99_seconds is not None:
        parts.append(f"p99 at most {goal.p99_seconds * 1e3:g} ms")
    if goal.max_megabytes is not None:
        parts.append(f"at most {goal.max_megabytes:g} MB")
    return ", ".join(parts)


def figures(cell: CellResult) -> str:
    """One cell in words: times, accuracy with its interval and change, engine size and energy."""
    parts = [times(cell.timing)] if cell.timing else []
    parts += _accuracy(cell.accuracy, cell.report, cell.is_baseline)
    if cell.engine_bytes:
        parts.append(f"{cell.engine_bytes / 1e6:.3f} MB")
    energy = cell.timing.energy if cell.timing else None
    if energy is not None and energy.mj_per_image is not None:
        parts.append(f"{energy.mj_per_image:.2f} mJ per image")
    return ", ".join(parts)


def times(timing: Timing) -> str:
    """One measurement in words: median with interval, 99th percentile, rate, speed-up, and whether it is unstable."""
    interval = f"{timing.median_low_ms:.3f}–{timing.median_high_ms:.3f}"
    shown = f"{timing.median_ms:.3f} ms ({interval}), p99 {timing.p99_ms:.3f} ms"
    if timing.server is not None:
        shown += f", {timing.server.rate_per_s:.4g} calls per second"
    return shown + _speedup(timing.comparison) + (", unstable" if timing.is_stable is False else "")


def _group(found: Recommendation) -> dict[str, Any]:
    return {title_of(name): value for name, value in found.group._asdict().items()}


def _speedup(against: Comparison | None) -> str:
    if against is None or against.speedup is None:
        return ""
    interval = ""
    if against.speedup_high is not None:
        interval = f" ({against.speedup_low:.2f}–{against.speedup_high:.2f})"
    return f", {against.speedup:.2f}× the baseline's speed{interval}"


def _accuracy(whole: Accuracy | None, report: PartAccuracy | None, is_baseline: bool) -> list[str]:
    """Accuracy in words: on the half of the images for reporting if there is one, else on all."""
    if whole is None or whole.top1_percent is None:
        return []
    if report is not None:
        parts = [f"accuracy {report.percent:.2f} % on {report.images} images"]
    elif whole.low_percent is not None and whole.high_percent is not None:
        parts = [f"accuracy {whole.top1_percent:.2f} % ({whole.low_percent:.2f}–{whole.high_percent:.2f})"]
    else:
        parts = [f"accuracy {whole.top1_percent:.2f} %"]
    change = report.change if report is not None else whole.change
    if change is not None and not is_baseline:
        alike = ", statistically indistinguishable from the baseline" if whole.is_indistinguishable else ""
        parts.append(f"{change.points:+.2f} points ({change.low:+.2f} to {change.high:+.2f}{alike})")
    return parts


def _doubts(found: Recommendation, doubts: Doubts) -> list[str]:
    lines = []
    if doubts.not_measured is not None:
        lines.append(f"It was built and not measured ({doubts.not_measured}): its times and accuracy are not known.")
    if doubts.images_needed is not None:
        twice = f", so {2 * doubts.images_needed} in the scoring split" if found.judged_on == HALF else ""
        needed = f"; {doubts.images_needed} are needed{twice}" if doubts.images_needed else ""
        lines.append(
            f"A bound of {found.goal.max_drop:g} on the points lost cannot be shown on {found.images} images{needed}."
        )
    if doubts.loss_not_excluded is not None:
        lost = f"{doubts.loss_not_excluded:.2f} points"
        lines.append(f"On the images that judged, its 95 % interval does not exclude a loss of {lost}.")
    if doubts.unstable_reason is not None:
        lines.append(f"Its times are unstable: {doubts.unstable_reason}.")
    if doubts.warnings:
        lines.append(f"Warning: {doubts.warnings}.")
    return lines


def _confirmation(found: Recommendation, confirmed: Confirmed | None) -> list[str]:
    if confirmed is None:
        return ["It was not measured again after the choice: these figures are biased in its favour."]
    if confirmed.timing is None:
        return [f"It could not be measured again after the choice: {confirmed.error}."]
    broken, chosen_by = broken_again(found, confirmed), found.best.cell.timing if found.best else None
    return [
        f"Measured again after the choice; it was chosen by {times(chosen_by) if chosen_by else 'its size'}.",
        *([f"Measured again, it violates {_shares(broken)}."] if broken else []),
    ]


def _judged(cell: CellResult, judged: str) -> str:
    """The change on the images that judged, their number, and the smallest bound that so many can show, in words."""
    images, found = judged_images(cell, judged), judgement(cell, judged)
    if not images or found is None:
        return ""
    change = "" if found.change is None or cell.is_baseline else f"{found.change:+.2f} points on "
    return f": {change}{images} images, which can show a bound of {least_loss_shown(images):.2f} points or more"


def _runners_up(found: Recommendation) -> list[str]:
    if not found.runners_up:
        return []
    others = "; ".join(
        f"{one.cell.recipe} on {one.cell.target} ({times(one.cell.timing)}{_change(one.cell, found.judged_on)})"
        for one in found.runners_up
        if one.cell.timing
    )
    return [f"Statistically indistinguishable from it in {found.goal.minimize}: {others}."]


def _change(cell: CellResult, judged: str) -> str:
    found = None if cell.is_baseline else judgement(cell, judged)
    return "" if found is None or found.change is None else f", {found.change:+.2f} points"


def _infeasible(found: Recommendation) -> list[str]:
    if found.nearest is None:
        return [f"No cell has a figure for {found.goal.minimize}."]
    cell = found.nearest.cell
    return [
        f"No cell is feasible; binding constraints: {' and '.join(found.binding)}.",
        f"The nearest is {cell.recipe} on {cell.target}, "
        f"which violates {_shares(found.nearest.violations)}: {figures(cell)}.",
    ]


def _shares(broken: Mapping[str, float]) -> str:
    return ", ".join(n if math.isinf(share) else f"{n} by {share:.0%} of its bound" for n, share in broken.items())
