"""Judges a comparison for a gate in CI: which cells got worse, and which could not be judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pqbench_orchestrator.decide.compare import NOT_COMPARABLE, Change
from pqbench_orchestrator.statistics import WORSE


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The cells of a comparison by what a gate makes of them; each is in one list."""

    worse: list[Change]  # slower beyond chance and by more than the limit, less accurate, or lost
    passed: list[Change]
    unstable: list[Change]  # their latencies were not judged, because their times are not stable
    absolute: list[Change]  # their latencies were not judged, because no baseline shows how the machine changed
    not_compared: list[Change]

    @property
    def has_judged(self) -> bool:
        """Whether any cell was judged."""
        return bool(self.worse or self.passed)


def judge(changes: Sequence[Change], limit: float, absolute: bool) -> Gate:
    """Judge the changes. `limit`: a relative change of latency that is accepted.

    `absolute`: judge also latencies of two runs that cannot be compared as shares of their baselines', as those of the
    baselines themselves: the machine's drift between the runs is then part of the change.
    """
    found = Gate(worse=[], passed=[], unstable=[], absolute=[], not_compared=[])
    for one in changes:
        _place(found, one, limit, absolute).append(one)
    return found


def _place(gate: Gate, change: Change, limit: float, absolute: bool) -> list[Change]:
    if change.is_lost or change.accuracy_verdict == WORSE:
        return gate.worse
    if change.verdict == NOT_COMPARABLE:
        return gate.not_compared
    if change.is_unstable:
        return gate.unstable
    if change.is_absolute and not absolute:
        return gate.absolute
    slower = change.verdict == WORSE and change.ratio is not None and change.ratio.value > 1 + limit
    return gate.worse if slower else gate.passed
