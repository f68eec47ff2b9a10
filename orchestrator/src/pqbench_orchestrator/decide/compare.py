"""Compares two runs, two targets of a run, or two machines: per cell the change of latency, with interval and verdict.

Cells that differ in a setting that changes what is timed are compared only on request, because the setting alone could
explain the difference.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pqbench_orchestrator.decide.sides import Identity, Session, Side, side_of
from pqbench_orchestrator.results.cell import CellResult
from pqbench_orchestrator.results.timing import speedup_error
from pqbench_orchestrator.statistics import (
    APART,
    BETTER,
    NORMAL,
    SAME,
    TOLERANCE,
    WORSE,
    PairedDifference,
    Ratio,
    paired_difference,
    unpaired_ratio,
    verdict,
)
from pqbench_orchestrator.store.run_folder import RunFolder
from pqbench_wire.errors import InvalidInput

NOT_COMPARABLE = "not comparable"
DEFAULTS = {"transfers": True}  # values for backends without these options
OTHER_IMAGES = "the accuracies are not of the same images: their intervals are compared"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One cell on both sides, and how its latency and accuracy changed.

    `ratio` is new over old latency: that of the geometric means `new_ms` and `old_ms`; with `old_speedup` and
    `new_speedup`, that of the latencies as shares of their own baselines'; or, where the highest rate was searched,
    that of the times for a call at this rate.
    """

    identity: Identity
    verdict: str
    notes: Sequence[str] = ()  # what the verdict rests on, or why there is none
    old_ms: float | None = None
    new_ms: float | None = None
    old_speedup: float | None = None  # over its own run's baseline; where given, `ratio` is old over new speed-up
    new_speedup: float | None = None
    ratio: Ratio | None = None
    old: CellResult | None = None  # of the first session
    new: CellResult | None = None
    layers: list[str] = field(default_factory=list)  # layers that execute in another precision
    accuracy: PairedDifference | None = None  # new minus old, where both scored the same images
    is_apart: bool = False  # two runs, or a single session: the interval does not cover how such measurements differ
    is_lost: bool = False  # all old sessions have a valid time, and not all new ones have
    is_unstable: bool = False  # a session's times are not stable
    is_absolute: bool = False  # of two runs, and latencies are not compared as shares of their own baselines'

    @property
    def reason(self) -> str:
        """The notes in one text."""
        return "; ".join(self.notes)

    @property
    def is_built(self) -> bool:
        """Whether both engines were built and not run: their sizes and build times are compared."""
        return bool(self.old and self.new and self.old.is_built_only and self.new.is_built_only)

    @property
    def accuracy_verdict(self) -> str:
        """BETTER, WORSE or SAME: by McNemar's test on the same images, else by whether the intervals overlap.

        Empty where accuracy is not known.
        """
        if self.accuracy is not None:
            if self.accuracy.indistinguishable:
                return SAME
            return BETTER if self.accuracy.points > 0 else WORSE
        old, new = _interval(self.old), _interval(self.new)
        if old is None or new is None:
            return ""
        if new[1] < old[0]:
            return WORSE
        return BETTER if new[0] > old[1] else SAME


def compare(old: Side, new: Side, anyway: bool = False, tolerance: float = APART) -> list[Change]:
    """The changes of all cells of both sides. Raises InvalidInput where only one side names a target.

    `anyway`: compare also cells whose settings differ. `tolerance`: the relative change of latency below which the
    verdict is "same", for two runs and where a side has a single session. For targets of one run with more sessions,
    which alternate, it is TOLERANCE.
    """
    if old.is_of_target != new.is_of_target:
        raise InvalidInput(f"name a target on both sides or on none: {old.name} and {new.name}")
    pairs = (
        _Pair(
            identity=key,
            old=old.sessions.get(key, []),
            new=new.sessions.get(key, []),
            two_runs=old.run != new.run,
            timed_options=old.timed_options | new.timed_options,
        )
        for key in dict.fromkeys([*old.sessions, *new.sessions])
    )
    return [pair.change(anyway, tolerance) for pair in pairs]


def versions_of_a_run(
    run: RunFolder, record: Mapping[str, Any], present: Collection[str]
) -> list[tuple[str, str, list[Change]]]:
    """Each pair of a run's targets that have the same backend and options but differ otherwise: names, and changes.

    Such targets differ in versions, device or environment. `record`: the run's environment; `present`: the targets that
    have cells.
    """
    targets = [(name, target) for name, target in record["targets"].items() if name in present]
    pairs = [
        (a, b) for i, (a, one) in enumerate(targets) for b, other in targets[i + 1 :] if _differ_in_version(one, other)
    ]
    sides = {name: side_of(run, name) for name in dict.fromkeys(name for pair in pairs for name in pair)}
    return [(a, b, compare(sides[a], sides[b])) for a, b in pairs]


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """The sessions of one cell on both sides, in the order of the repeats."""

    identity: Identity
    old: list[Session]
    new: list[Session]
    two_runs: bool
    timed_options: frozenset[str]

    def change(self, anyway: bool, tolerance: float) -> Change:
        reason = self._hindrance(anyway)
        if reason:
            return self._not_comparable(reason)
        by_rate, by_speedup = self._by_rate, self._by_speedup
        ratio = self._ratio()
        is_apart = self._alone or self.two_runs
        return Change(
            identity=self.identity,
            verdict=verdict(ratio, tolerance if is_apart else TOLERANCE),
            notes=list(dict.fromkeys(self._notes(by_rate, by_speedup))),
            old_ms=_mean(_timed(self.old, by_rate)) * 1e3,
            new_ms=_mean(_timed(self.new, by_rate)) * 1e3,
            old_speedup=1 / _mean(_relative(self.old)) if by_speedup else None,
            new_speedup=1 / _mean(_relative(self.new)) if by_speedup else None,
            ratio=ratio,
            layers=changed_layers(self.old[0].layers, self.new[0].layers),
            accuracy=self._accuracy,
            is_apart=is_apart,
            is_unstable=any(one.cell.is_unstable for one in (*self.old, *self.new)),
            is_absolute=self.two_runs and not by_speedup and not by_rate,
            old=self.old[0].cell,
            new=self.new[0].cell,
        )

    def _not_comparable(self, reason: str) -> Change:
        return Change(
            identity=self.identity,
            verdict=NOT_COMPARABLE,
            notes=[reason],
            accuracy=self._accuracy,
            old=self.old[0].cell if self.old else None,
            new=self.new[0].cell if self.new else None,
            is_lost=_all_sound(self.old) and not _all_sound(self.new),
        )

    def _hindrance(self, anyway: bool) -> str:
        """Why the sides cannot be compared; empty where they can."""
        reason = _engines_alone(self.old, self.new)
        reason = reason or next((text for name, sessions in self._sides if (text := _unsound(name, sessions))), "")
        if not reason and not anyway:
            reason = settings_differ(self.old[0].cell, self.new[0].cell, self.timed_options)
        if not reason and self._by_rate and self._alone:
            reason = "highest rates are compared over sessions: set repeats to 2 or more"
        return reason

    def _notes(self, by_rate: bool, by_speedup: bool) -> list[str]:
        before, after = self.old[0].definition, self.new[0].definition
        notes = [
            f"another {kind} under the same name: {before[kind]}; now {after[kind]}"
            for kind in before
            if before[kind] != after.get(kind, before[kind])
        ]
        notes += [
            "one session: the interval does not cover variation between sessions"
            if self._alone
            else f"{len(self.old)} and {len(self.new)} sessions: figures are their geometric means"
        ]
        if by_speedup:
            notes.append("two runs: latencies are compared relative to each run's baseline")
        if by_rate:
            notes.append("the change is in the time per call at the highest rate")
        if self._accuracy is None and _interval(self.old[0].cell) and _interval(self.new[0].cell):
            notes.append(OTHER_IMAGES)
        return notes + [
            f"{name}: {one.cell.timing.unstable_reason}"
            for name, sessions in self._sides
            for one in sessions
            if one.cell.timing is not None and one.cell.is_unstable
        ]

    @property
    def _sides(self) -> tuple[tuple[str, list[Session]], ...]:
        return (("old", self.old), ("new", self.new))

    @property
    def _alone(self) -> bool:
        return min(len(self.old), len(self.new)) == 1

    @property
    def _by_rate(self) -> bool:
        """Whether the highest rate was searched on both sides (server scenario): then rates are compared."""
        return all(_is_searched(one.cell) for one in (*self.old[:1], *self.new[:1])) and bool(self.old and self.new)

    @property
    def _by_speedup(self) -> bool:
        return self.two_runs and not self._by_rate and all(_relative(side) for side in (self.old, self.new))

    @functools.cached_property
    def _accuracy(self) -> PairedDifference | None:
        if not (self.old and self.new):
            return None
        old, new = self.old[0], self.new[0]
        if old.right is None or new.right is None or not old.images or old.images != new.images:
            return None
        return paired_difference(new.right, old.right)

    def _ratio(self) -> Ratio:
        """The ratio of new over old latency.

        For two runs, each latency is taken over that of its own baseline where possible, because the machine may have
        changed between the runs.
        """
        if not self._by_speedup:
            return unpaired_ratio(_timed(self.new, self._by_rate), _timed(self.old, self._by_rate))
        if not self._alone:
            return unpaired_ratio(_relative(self.new), _relative(self.old))
        value = _mean(_relative(self.new)) / _mean(_relative(self.old))
        errors = (speedup_error([one.cell.comparison for one in side]) for side in (self.old, self.new))
        half = NORMAL * math.hypot(*errors)
        return Ratio(value=value, low=value * math.exp(-half), high=value * math.exp(half))


def settings_differ(old: CellResult, new: CellResult, timed_options: Collection[str]) -> str:
    """The first setting that changes what is timed and differs, with both values; empty where there is none."""
    if old.scenario != new.scenario:
        return f"scenario: {old.scenario} and {new.scenario}"
    before, after = (_settings(cell, timed_options) for cell in (old, new))
    for name in [name for name in before if name in after]:
        if before[name] != after[name]:
            return f"{name}: {before[name]} and {after[name]}"
    return ""


def _settings(cell: CellResult, timed_options: Collection[str]) -> dict[str, Any]:
    """The settings of a cell that change what is timed, as far as it has them."""
    options = DEFAULTS | json.loads((cell.engine and cell.engine.options) or "{}")
    found = {f"option {name}": options[name] for name in sorted(timed_options) if name in options}
    rate = "searched" if _is_searched(cell) else (cell.server and cell.server.rate_per_s)
    others = {"calls a second": rate, "CUDA graph": cell.timing and cell.timing.cuda_graph}
    return found | {name: value for name, value in others.items() if value is not None}


def changed_layers(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Compute layers that both engines have by name but execute in different precisions: "conv1: FP16 → FP32"."""
    return [f"{n}: {p} → {new[n]}" for n, p in old.items() if n in new and new[n] != p]


def _differ_in_version(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two targets have the same backend and options but differ otherwise; False where one had no engines."""
    same = ("backend", "options")
    known = all(target["device"] or target.get("built_for") for target in (one, other))
    return known and all(one.get(name) == other.get(name) for name in same) and one != other


def _engines_alone(old: Sequence[Session], new: Sequence[Session]) -> str:
    """How two engines differ that were built and could not be run; empty for others."""
    if not (old and new):
        return ""
    before, after = old[0].cell, new[0].cell
    if {before.outcome, after.outcome} != {"unavailable"} or not before.engine_bytes or not after.engine_bytes:
        return ""
    sizes = f"{before.engine_bytes / 1e6:.3f} MB and {after.engine_bytes / 1e6:.3f} MB"
    times = " and ".join(f"{cell.engine.build_s or 0:.1f} s" for cell in (before, after) if cell.engine)
    change = after.engine_bytes / before.engine_bytes - 1
    return f"built, not run: the engine has {sizes} ({change:+.1%}), built in {times}"


def _unsound(name: str, sessions: Sequence[Session]) -> str:
    """Why a side cannot be compared; empty where it can."""
    if not sessions:
        return f"not on the {name} side"
    if bad := [one.cell for one in sessions if not one.cell.is_ok]:
        return f"{bad[0].outcome} on the {name} side: {bad[0].reason}"
    if not all(_is_timed(one.cell) for one in sessions):
        return f"not timed on the {name} side"
    if any(one.cell.is_invalid for one in sessions):
        return f"the server run on the {name} side is invalid"
    return ""


def _all_sound(sessions: Sequence[Session]) -> bool:
    return bool(sessions) and all(_is_timed(one.cell) and not one.cell.is_invalid for one in sessions)


def _is_timed(cell: CellResult) -> bool:
    return cell.is_ok and cell.median_ms is not None


def _is_searched(cell: CellResult) -> bool:
    return bool(cell.server and cell.server.is_searched)


def _interval(cell: CellResult | None) -> tuple[float, float] | None:
    """The 95 % interval of a cell's accuracy, in percent; None where it is not known."""
    accuracy = cell.accuracy if cell is not None else None
    if accuracy is None or accuracy.low_percent is None or accuracy.high_percent is None:
        return None
    return accuracy.low_percent, accuracy.high_percent


def _timed(sessions: Sequence[Session], by_rate: bool) -> list[float]:
    """Independent times in seconds: medians of the sessions, or of the blocks of a single session.

    `by_rate`: the sessions' times for a call at the highest rate.
    """
    if by_rate:
        return [1 / one.cell.server.rate_per_s for one in sessions if one.cell.server]
    if len(sessions) == 1 and sessions[0].blocks:
        return sessions[0].blocks  # how sessions differ is covered by the tolerance
    return [one.cell.median_ms / 1e3 for one in sessions if one.cell.median_ms is not None]


def _relative(sessions: Sequence[Session]) -> list[float]:
    """Each session's latency over the baseline's in the same session; empty where a session was not paired."""
    speedups = [one.cell.speedup if one.cell.is_paired else None for one in sessions]
    known = [1 / value for value in speedups if value]
    return known if len(known) == len(speedups) else []


def _mean(values: Sequence[float]) -> float:
    """The geometric mean, because ratios of means are compared."""
    return math.exp(sum(math.log(value) for value in values) / len(values))
