"""Judges whether a measurement is stable, and gives the reasons if not: an unmarked figure would be trusted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pqbench.runtime.v1.runtime_pb2 import SCENARIO_SERVER, EngineTiming, GpuReading, LoadReading, MeasureSettings

WINDOWS = 3  # how many of the last windows (blocks) must have medians that agree
FOREIGN_MEAN, FOREIGN_ROUND = 0.15, 0.5  # most cores that others may use: on average, and in one round of blocks
# Two modes count from these values on: the rarer one's share of the calls, their relative distance, and the share of
# the variance that the split into the two explains.
MODE_SHARE, MODE_DISTANCE, MODE_EXPLAINED = 0.25, 0.15, 0.85
HELD = 0.01  # largest share of the time during which clocks may be held down
# A board that is at its power limit for at least this share of the time is in its steady state: many always are.
STEADY, POWER_CAP = 0.9, "power cap"
READINGS = 5  # the fewest that show a steady state where the board has no counters


def spread(medians: Sequence[float]) -> float:
    """The range (largest minus smallest) of the last windows' medians, as a share of their mean."""
    last = medians[-WINDOWS:]
    return (max(last) - min(last)) / float(np.mean(last))


def is_stable(medians: Sequence[float], settings: MeasureSettings) -> bool:
    """Whether the range of the last three windows' medians is at most `stability`, as a share of their mean."""
    return len(medians) >= WINDOWS and spread(medians) <= settings.stability


def judge(
    timing: EngineTiming,
    latency: np.ndarray,
    medians: Sequence[float],
    settings: MeasureSettings,
    gpu: Sequence[GpuReading],
    load: Sequence[LoadReading],
) -> None:
    """Set `stable` and `unstable_reason` of a timing. Latencies and windows' medians are in seconds.

    Drift, noise and two modes are not judged in the server scenario: its latencies include the wait in a queue, which
    varies and has two modes by nature.
    """
    reasons = [_throttled(gpu), _foreign(load)]
    if settings.scenario != SCENARIO_SERVER:
        reasons += [_moved(medians, settings), _bimodal(latency)]
    found = [reason for reason in reasons if reason]
    timing.stable = not found
    timing.unstable_reason = "; ".join(found)


def _throttled(readings: Sequence[GpuReading]) -> str:
    """The reason where clocks were held down: at a reading, or for over 1 % of the time by the board's counters.

    Being at the power limit all the time is none: the board never runs otherwise, and a drift is found by itself.
    """
    reasons = {reason for one in readings for reason in one.throttled}
    shares = _shares_held(readings)
    reasons |= {reason for reason, share in shares.items() if share > HELD}
    if shares.get(POWER_CAP, _share_of_readings(readings, POWER_CAP)) >= STEADY:
        reasons.discard(POWER_CAP)
    return f"throttled: {', '.join(sorted(reasons))}" if reasons else ""


def _shares_held(readings: Sequence[GpuReading]) -> dict[str, float]:
    """The share of the time between the first and the last reading that clocks were held down, by reason."""
    if len(readings) < 2:
        return {}
    first, last = readings[0], readings[-1]
    seconds = last.seconds - first.seconds
    return {
        reason: (held - first.held_seconds.get(reason, 0.0)) / seconds for reason, held in last.held_seconds.items()
    }


def _share_of_readings(readings: Sequence[GpuReading], reason: str) -> float:
    """The share of the readings after the first, which is taken before any work, that have a reason; 0 for too few."""
    found = [reason in one.throttled for one in readings[1:]]
    return float(np.mean(found)) if len(found) >= READINGS else 0.0


def _foreign(readings: Sequence[LoadReading]) -> str:
    if not readings:
        return ""
    for what, field in (("other processes used", "foreign_cores"), ("the hypervisor took", "stolen_cores")):
        cores = [getattr(one, field) for one in readings]
        if np.mean(cores) > FOREIGN_MEAN or max(cores) > FOREIGN_ROUND:
            return f"other load: {what} {np.mean(cores):.2f} cores, {max(cores):.2f} at most in one round"
    return ""


def _moved(medians: Sequence[float], settings: MeasureSettings) -> str:
    if is_stable(medians, settings):
        return ""
    steps = np.sign(np.diff(medians[-WINDOWS - 1 :]))
    kind = "drift" if len(steps) and abs(steps.sum()) == len(steps) else "noise"
    return f"{kind}: the last {WINDOWS} windows' medians differ by {spread(medians):.1%}, over {settings.stability:.1%}"


def _bimodal(latency: np.ndarray) -> str:
    """The reason where latencies have two modes and the rarer one is common: the median could then be of either.

    The modes are found by Otsu's method (1979): the split of the latencies' logarithms that explains most of their
    variance. The lowest and the highest 2 % are left out.
    """
    if len(latency) < 40:
        return ""
    ordered = np.sort(np.log(latency))
    ordered = ordered[int(0.02 * len(ordered)) : int(0.98 * len(ordered))]
    count, total = np.arange(1, len(ordered)), np.cumsum(ordered)
    share = count / len(ordered)
    low, high = total[:-1] / count, (total[-1] - total[:-1]) / (len(ordered) - count)
    between = share * (1 - share) * (high - low) ** 2
    at = int(np.argmax(between))
    rarer, apart = min(share[at], 1 - share[at]), float(np.expm1(high[at] - low[at]))
    if rarer < MODE_SHARE or apart < MODE_DISTANCE or between[at] < MODE_EXPLAINED * ordered.var():
        return ""
    fast, slow = (1e3 * float(np.exp(mode[at])) for mode in (low, high))
    return f"bimodal: {1 - share[at]:.0%} of the calls take {slow:.3f} ms, the others {fast:.3f} ms"
