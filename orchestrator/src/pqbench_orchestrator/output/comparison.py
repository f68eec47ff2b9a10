"""Comparisons as text for the terminal and pages, as Markdown for a pull request, and as JSON for scripts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any
from xml.etree import ElementTree

from pqbench_orchestrator.decide.compare import NOT_COMPARABLE, Change
from pqbench_orchestrator.decide.gate import Gate
from pqbench_orchestrator.decide.sides import Identity
from pqbench_orchestrator.results.cell import CellResult
from pqbench_orchestrator.statistics import BETTER, SAME, WORSE, Ratio

VERDICTS = (BETTER, WORSE, SAME, NOT_COMPARABLE)
COLUMNS = ("Cell", "Old", "New", "Change", "Verdict", "Accuracy %", "Accuracy", "Executed in", "Note")
CAPTION = (
    "Change: of the latency or, where it is shown, of its share of the baseline's in the same session; "
    "negative is faster; with its 95 % interval."
)


def texts(change: Change, said: Collection[str] = ()) -> list[str]:
    """A change as one text for each of COLUMNS; `said`: notes that stand elsewhere, as `common_notes` gives them."""
    layers = "" if not change.layers else f"{len(change.layers)} layers differ: {', '.join(change.layers)}"
    return [
        name_of(change.identity),
        _latency(change.old_ms, change.old_speedup),
        _latency(change.new_ms, change.new_speedup),
        _change(change.ratio),
        f"{change.verdict}{' (unstable)' if change.is_unstable else ''}",
        _both(*(_number(cell.top1_percent if cell else None, 2) for cell in (change.old, change.new))),
        change.accuracy_verdict,
        _both(*map(_executed_in, (change.old, change.new))),
        "; ".join(text for text in (layers, *change.notes) if text and text not in said),
    ]


def common_notes(changes: Sequence[Change]) -> list[str]:
    """The notes that all changes with a verdict share, to be said once below a table; none for a single change."""
    compared = [one.notes for one in changes if one.verdict != NOT_COMPARABLE]
    if len(compared) < 2:
        return []
    return [note for note in compared[0] if all(note in notes for notes in compared)]


def caption(changes: Sequence[Change]) -> str:
    """What stands below a table of changes: how to read the change, and the common notes."""
    return " ".join([CAPTION, *(f"{note[0].upper()}{note[1:]}." for note in common_notes(changes))])


def counts(changes: Sequence[Change]) -> str:
    """How many cells have each verdict, and how many are unstable."""
    verdicts = Counter(one.verdict for one in changes)
    unstable = sum(one.is_unstable for one in changes)
    listed = ", ".join(f"{verdicts[name]} {name}" for name in VERDICTS if verdicts[name])
    return f"{len(changes)} cells: {listed}{f'; {unstable} of them unstable' if unstable else ''}"


def of_gate(gate: Gate, limit: float, tolerance: float) -> list[str]:
    """What a gate says, in lines. `limit`, `tolerance`: relative changes of latency."""
    judged = [*gate.worse, *gate.passed]
    lost = sum(one.is_lost for one in gate.worse)
    lines = [
        f"{len(gate.worse)} of {len(judged)} judged cells got worse{f', {lost} of them no longer run' if lost else ''}"
    ]
    lines += [f"  {name_of(one.identity)}" for one in gate.worse]
    for cells, why in (
        (gate.unstable, "not judged, as their times are unstable"),
        (gate.absolute, "not judged, as two runs are compared by shares of baselines (--absolute judges them)"),
        (gate.not_compared, "could not be compared"),
    ):
        if cells:
            lines += [f"{len(cells)} {why}:", *(f"  {name_of(one.identity)}" for one in cells)]
    if any(one.is_apart for one in gate.passed) and limit < tolerance:
        lines.append(f"for two runs or one session, a change under {tolerance:.1%} counts as none: set --tolerance")
    return lines


def junit(gate: Gate, old: str, new: str) -> str:
    """A gate's verdicts as JUnit's XML, a test case for each cell; what was not judged is skipped."""
    skipped = {
        "unstable": gate.unstable, "compared by absolute times": gate.absolute, NOT_COMPARABLE: gate.not_compared,
    }  # fmt: skip
    cases = [*gate.worse, *gate.passed, *(one for cells in skipped.values() for one in cells)]
    suite = ElementTree.Element(
        "testsuite", name=f"pqbench compare {old} {new}", tests=str(len(cases)), failures=str(len(gate.worse)),
        skipped=str(len(cases) - len(gate.worse) - len(gate.passed)),
    )  # fmt: skip
    for change in cases:
        case = ElementTree.SubElement(suite, "testcase", classname="pqbench", name=name_of(change.identity))
        text = "; ".join(
            f"{name}: {value}" for name, value in zip(COLUMNS[1:], texts(change)[1:], strict=True) if value
        )
        if change in gate.worse:
            ElementTree.SubElement(case, "failure", message=text)
        for why, cells in skipped.items():
            if change in cells:
                ElementTree.SubElement(case, "skipped", message=f"{why}: {text}")
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)


def _latency(ms: float | None, speedup: float | None) -> str:
    if ms is None:
        return ""
    return f"{ms:.3f} ms" if speedup is None else f"{1 / speedup:.1%} of its baseline's ({ms:.3f} ms)"


def _change(ratio: Ratio | None) -> str:
    if ratio is None:
        return ""
    shown = f"{ratio.value - 1:+.1%} "
    if not math.isfinite(ratio.high):
        return f"{shown}(no interval)"
    return f"{shown}({ratio.low - 1:+.1%} to {ratio.high - 1:+.1%})"


def markdown(changes: Sequence[Change], old: str, new: str) -> str:
    """The changes as a Markdown table, for a pull request."""
    lines = [f"`{old}` → `{new}`", "", "| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    said = common_notes(changes)
    lines += ["| " + " | ".join(text.replace("|", "\\|") for text in texts(one, said)) + " |" for one in changes]
    return "\n".join([*lines, "", counts(changes), "", caption(changes)]) + "\n"


def as_json(change: Change) -> dict[str, Any]:
    """A change as JSON values; an interval's end that is infinite becomes None."""
    ratio, accuracy = change.ratio, change.accuracy
    *identity, target = change.identity
    return {
        "cell": [*identity, *([target] if target is not None else [])],
        "verdict": change.verdict,
        "is_unstable": change.is_unstable,
        "is_absolute": change.is_absolute,
        "is_lost": change.is_lost,
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
