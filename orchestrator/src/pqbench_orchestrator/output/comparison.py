"""Comparisons as text for the terminal and pages, as Markdown for a pull request, and as JSON for scripts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pqbench_orchestrator.decide.compare import Change
from pqbench_orchestrator.decide.sides import Identity
from pqbench_orchestrator.results.cell import CellResult

COLUMNS = (
    "Cell",
    "Old ms",
    "New ms",
    "Speed-up",
    "Change (95 %)",
    "Verdict",
    "Accuracy %",
    "Accuracy",
    "Executed in",
    "Note",
)


def texts(change: Change) -> list[str]:
    """A change as one text for each of COLUMNS."""
    ratio = change.ratio
    shown = "" if ratio is None else f"{ratio.value - 1:+.1%} ({ratio.low - 1:+.1%} to {ratio.high - 1:+.1%})"
    if ratio is not None and not math.isfinite(ratio.high):
        shown = f"{ratio.value - 1:+.1%} (no interval)"
    layers = "" if not change.layers else f"{len(change.layers)} layers differ: {', '.join(change.layers[:3])}"
    return [
        name_of(change.identity),
        _number(change.old_ms, 3),
        _number(change.new_ms, 3),
        _both(_number(change.old_speedup, 2), _number(change.new_speedup, 2)),
        shown,
        change.verdict,
        _both(*(_number(cell.top1_percent if cell else None, 2) for cell in (change.old, change.new))),
        change.accuracy_verdict,
        _both(*map(_executed_in, (change.old, change.new))),
        "; ".join(text for text in (layers, change.reason) if text),
    ]


def markdown(changes: Sequence[Change], old: str, new: str) -> str:
    """The changes as a Markdown table, for a pull request."""
    lines = [f"`{old}` → `{new}`", "", "| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    lines += ["| " + " | ".join(text.replace("|", "\\|") for text in texts(one)) + " |" for one in changes]
    return "\n".join(lines) + "\n"


def as_json(change: Change) -> dict[str, Any]:
    """A change as JSON values; an interval's end that is infinite becomes None."""
    ratio, accuracy = change.ratio, change.accuracy
    *identity, target = change.identity
    return {
        "cell": [*identity, *([target] if target is not None else [])],
        "verdict": change.verdict,
        "reason": change.reason,
        "old_ms": change.old_ms,
        "new_ms": change.new_ms,
        "old_speedup": change.old_speedup,
        "new_speedup": change.new_speedup,
        "ratio": None if ratio is None else ratio.value,
        "ratio_low": None if ratio is None else ratio.low,
        "ratio_high": ratio.high if ratio is not None and math.isfinite(ratio.high) else None,
        "accuracy_change": None if accuracy is None else accuracy.points,
        "accuracy_verdict": change.accuracy_verdict,
        "layers": change.layers,
    }


def name_of(cell: Identity) -> str:
    """A cell in words, as "resnet20, cifar10, int8, batch 8, ort"."""
    at_once = [f"concurrency {cell.concurrency}"] if cell.concurrency != 1 else []
    target = [cell.target] if cell.target is not None else []
    return ", ".join([cell.model, cell.dataset, cell.recipe, f"batch {cell.batch_size}", *at_once, *target])


def _executed_in(cell: CellResult | None) -> str:
    return (cell.engine.executed_precision or "") if cell and cell.engine else ""


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _both(old: str, new: str) -> str:
    return old if old == new else f"{old} → {new}"
