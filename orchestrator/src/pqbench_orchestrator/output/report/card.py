"""The cards at the top of a report: for each model and load what to ship, in four figures, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass

from pqbench_orchestrator.decide.recommend import Recommendation, doubts_of, last_timing
from pqbench_orchestrator.output import recommendation
from pqbench_orchestrator.results.cell import CellResult, Change, Confirmation, Timing

STABLE, UNSTABLE, UNKNOWN = "stable", "unstable", "not measured"


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One figure with its interval, or what it is compared with."""

    name: str
    value: str
    beside: str = ""


@dataclass(frozen=True, kw_only=True)
class Card:
    """The answer for one model, dataset and load."""

    group: str
    goal: str
    headline: str
    key: str = ""  # of the cell to ship; empty where none is feasible
    verb: str = ""  # before the headline: to ship, or not proven
    reservation: str = ""  # after the headline: what is not excluded
    is_proven: bool = False
    badge: str = UNKNOWN
    tiles: tuple[Tile, ...] = ()
    lines: tuple[str, ...] = ()  # what to know, in sentences
    runners_up: tuple[tuple[str, str], ...] = ()  # name and key of each
    commands: tuple[str, ...] = ()


def card_of(found: Recommendation, confirmed: Confirmation | None, run: str) -> Card:
    """The card of a recommendation; `confirmed`: the measurement of its cell after the choice, if there is one."""
    group = found.group
    loads = [f"batch {group.batch_size}", *([f"{group.concurrency} at once"] if group.concurrency > 1 else [])]
    named = ", ".join([group.model, group.dataset, *loads])
    goal = f"least {found.goal.minimize}, {recommendation.constraints(found.goal)}"
    lines = tuple(recommendation.evidence(found, confirmed))
    if found.best is None:
        return Card(group=named, goal=goal, headline=lines[0], lines=lines[1:])
    cell = found.best.cell
    return Card(
        group=named,
        goal=goal,
        headline=f"{cell.recipe} on {cell.target}",
        key=cell.key,
        verb=recommendation.verb(found),
        reservation=recommendation.reservation(found),
        is_proven=found.is_proven,
        badge=_badge(last_timing(found.best, confirmed)),
        tiles=tuple(_tiles(cell, last_timing(found.best, confirmed))),
        lines=lines,
        runners_up=tuple((f"{one.cell.recipe} on {one.cell.target}", one.cell.key) for one in found.runners_up),
        commands=() if doubts_of(found, confirmed).not_measured else (
            f"pqbench export {run} {cell.key} --out bundle", f"pqbench why {run} {cell.key}",
        ),
    )  # fmt: skip


def _badge(timing: Timing | None) -> str:
    if timing is None:
        return UNKNOWN
    return UNSTABLE if timing.is_stable is False else STABLE


def _tiles(cell: CellResult, timing: Timing | None) -> list[Tile]:
    found = []
    if timing is not None:
        interval = ""
        if timing.median_low_ms is not None and timing.median_high_ms is not None:
            interval = f"{timing.median_low_ms:.3f} to {timing.median_high_ms:.3f}"
        found.append(Tile(name="Latency", value=f"{timing.median_ms:.3f} ms", beside=interval))
        found.append(_speedup(timing, cell.is_baseline))
    found.append(_accuracy(cell))
    size = Tile(name="Size", value="not known")
    if cell.engine_bytes is not None:
        size = Tile(name="Size", value=f"{cell.engine_bytes / 1e6:.2f} MB", beside="the engine's file")
    return [*found, size]


def _speedup(timing: Timing, is_baseline: bool) -> Tile:
    against = timing.comparison
    if against is None or against.speedup is None:
        return Tile(name="Speed-up", value="1×" if is_baseline else "not known", beside="")
    interval = ""
    if against.speedup_low is not None and against.speedup_high is not None:
        interval = f"{against.speedup_low:.2f} to {against.speedup_high:.2f}"
    return Tile(name="Speed-up", value=f"{against.speedup:.2f}×", beside=interval)


def _accuracy(cell: CellResult) -> Tile:
    """The accuracy and its change, if there is one; of the images for reporting, if some were set aside.

    Its name says how many images that is: the table beside it shows the accuracy on all images.
    """
    part, whole = cell.report, cell.accuracy
    images = part.images if part is not None else whole.images if whole is not None else None
    name = f"Accuracy on {images} images" if images else "Accuracy"
    percent = part.percent if part is not None else whole.top1_percent if whole is not None else None
    if percent is None:
        return Tile(name="Accuracy", value="not known")
    change: Change | None = part.change if part is not None else whole.change if whole is not None else None
    if change is None or cell.is_baseline:
        return Tile(name=name, value=f"{percent:.2f} %")
    beside = f"{change.points:+.2f} points ({change.low:+.2f} to {change.high:+.2f})"
    return Tile(name=name, value=f"{percent:.2f} %", beside=beside)
