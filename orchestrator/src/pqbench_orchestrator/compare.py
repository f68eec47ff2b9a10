"""Compare: two runs, two targets of a run, two machines; per cell the change of latency, with interval and verdict.

What differs in a setting that matters is not compared unless one says so: the difference would be the setting's.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format

from pqbench.common.v1.common_pb2 import Blob, Images
from pqbench_orchestrator.ledger import FILE, Ledger
from pqbench_orchestrator.samples import calls_of
from pqbench_orchestrator.stats import (
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
from pqbench_orchestrator.tables import Row, recorded, speedup_error
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import InvalidInput

IDENTITY = ("Model", "Dataset", "Recipe", "Batch Size", "Concurrency")
NOT_COMPARABLE = "not comparable"
# Options that change what is timed rather than how the runtime works; a difference forbids a comparison.
MATTER = ("threads", "transfers", "cuda_graph", "spin", "mode")
UNSAID = {"transfers": True}  # what a backend does that has no such option
OTHER_IMAGES = "the accuracies are not of the same images: their intervals are compared"


@dataclass(frozen=True, kw_only=True)
class Session:
    """One measurement of a cell."""

    row: Row
    blocks: list[float]  # medians of its blocks, seconds
    layers: list[dict[str, Any]] = field(default_factory=list)  # of its engine
    right: np.ndarray | None = None  # whether each image was put into its class, bool [N]
    images: str = ""  # digest of the labels of these images, in order; empty where not all were scored


@dataclass(frozen=True, kw_only=True)
class Side:
    """What is compared: sessions by cell."""

    name: str
    cells: dict[tuple[Any, ...], list[Session]]
    of_target: bool = False  # its cells are named without their target
    run: Path = Path()


@dataclass(frozen=True, kw_only=True)
class Change:
    """One cell on both sides; `ratio` is new over old latency: of the geometric means `new_ms` and `old_ms`, or of what
    each takes of its own run's baseline."""

    cell: tuple[Any, ...]
    verdict: str
    reason: str = ""
    old_ms: float | None = None
    new_ms: float | None = None
    old_speedup: float | None = None  # over its own run's baseline; where given, `ratio` is that of the two
    new_speedup: float | None = None
    ratio: Ratio | None = None
    old: Row = field(default_factory=dict)  # the first session's row
    new: Row = field(default_factory=dict)
    layers: list[str] = field(default_factory=list)  # layers that execute in another precision
    accuracy: PairedDifference | None = None  # new minus old, where both scored the same images
    apart: bool = False  # two runs or single sessions: how those differ without a reason is not in the interval
    lost: bool = False  # every session had a sound time, and not all have one any more

    @property
    def accuracy_verdict(self) -> str:
        """Better, worse or same by McNemar's test, or by the intervals of other images; empty where it is not told."""
        if self.accuracy is not None:
            if self.accuracy.indistinguishable:
                return SAME
            return BETTER if self.accuracy.points > 0 else WORSE
        if self.old.get("Accuracy Low") is None or self.new.get("Accuracy Low") is None:
            return ""
        if self.new["Accuracy High"] < self.old["Accuracy Low"]:
            return WORSE
        return BETTER if self.new["Accuracy Low"] > self.old["Accuracy High"] else SAME


def side(text: str) -> Side:
    """The side that "RUN" or "RUN:TARGET" names. Raises InvalidInput."""
    return side_of(*_split(text))


def side_of(folder: Path, target: str = "") -> Side:
    """A run's cells, or those of one of its targets. Raises InvalidInput."""
    store, blocks = BlobStore(folder.resolve().parent.parent / "blobs"), _blocks(folder)
    cells: dict[tuple[Any, ...], list[Session]] = defaultdict(list)
    with Ledger(folder / FILE, read_only=True) as ledger:
        rows = recorded(ledger)
        targets = sorted({row["Target"] for row in rows})
        if target and target not in targets:
            raise InvalidInput(f"{folder} has no target {target!r}, only {', '.join(targets)}")
        for row in (row for row in rows if target in ("", row["Target"])):
            own = ledger.steps_of(row["Cell"])
            results = {role: _result(ledger, own.get(role, "")) for role in ("build", "score", "inputs")}
            key = tuple(row.get(column) for column in IDENTITY) + (() if target else (row["Target"],))
            cells[key].append(
                Session(
                    row=row,
                    blocks=blocks.get(row["Cell"], []),
                    layers=results["build"].get("layers", []),
                    right=_right(results["score"], store),
                    images="" if row.get("Stopped Early") else _labels(results["inputs"]),
                )
            )
    name = f"{folder}:{target}" if target else str(folder)
    return Side(name=name, of_target=bool(target), cells=dict(cells), run=folder.resolve())


def compare(old: Side, new: Side, anyway: bool = False, tolerance: float = APART) -> list[Change]:
    """Every cell of either side; `anyway`: also where settings that matter differ. Raises InvalidInput.

    `tolerance`: the change of latency, as a share, that counts as none between two runs and between single sessions.
    The sessions of one run's targets alternate: there their interval decides, from 1 % on.
    """
    if old.of_target != new.of_target:
        raise InvalidInput(f"name a target on both sides or on none: {old.name} and {new.name}")
    return [
        _change(key, old.cells.get(key, []), new.cells.get(key, []), anyway, old.run != new.run, tolerance)
        for key in dict.fromkeys([*old.cells, *new.cells])
    ]


def versions_of_a_run(
    folder: Path, record: dict[str, Any], present: Collection[str]
) -> list[tuple[str, str, list[Change]]]:
    """Each two targets of a run that differ in nothing but the version or device: names, and what changed.

    `present`: the targets that have cells.
    """
    targets = [(name, target) for name, target in record["targets"].items() if name in present]
    pairs = [
        (a, b) for i, (a, one) in enumerate(targets) for b, other in targets[i + 1 :] if _differ_in_version(one, other)
    ]
    sides = {name: side_of(folder, name) for name in dict.fromkeys(name for pair in pairs for name in pair)}
    return [(a, b, compare(sides[a], sides[b])) for a, b in pairs]


def _differ_in_version(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """A target that was not there is not compared."""
    same = ("backend", "options")
    known = all(target["device"] for target in (one, other))
    return known and all(one.get(name) == other.get(name) for name in same) and one != other


def regressions(changes: Iterable[Change], limit: float) -> list[Change]:
    """Cells that got slower by more than a share `limit`, beyond chance, or less accurate, or do not run any more."""
    return [
        one
        for one in changes
        if one.lost
        or one.accuracy_verdict == WORSE
        or (one.verdict == WORSE and one.ratio is not None and one.ratio.value > 1 + limit)
    ]


def _change(
    key: tuple[Any, ...], old: list[Session], new: list[Session], anyway: bool, two_runs: bool, tolerance: float
) -> Change:
    first_old, first_new = old[0].row if old else {}, new[0].row if new else {}
    accuracy = _accuracy(old[0], new[0]) if old and new else None
    alone = min(len(old), len(new)) == 1
    by_rate = all(row.get("Rate Searched") for row in (first_old, first_new))
    reason = _hindrance(old, new) or ("" if anyway else settings_differ(first_old, first_new))
    if not reason and by_rate and alone:
        reason = "highest rates are compared over sessions: set repeats"
    if reason:
        return Change(
            cell=key, verdict=NOT_COMPARABLE, reason=reason, accuracy=accuracy, old=first_old, new=first_new,
            lost=_all_sound(old) and not _all_sound(new),
        )  # fmt: skip
    by_speedup = two_runs and not by_rate and all(_speedups(side) for side in (old, new))
    ratio = _by_speedup(old, new) if by_speedup else unpaired_ratio(_timed(new, by_rate), _timed(old, by_rate))
    notes = ["one session: what differs between sessions is not in the interval"] if alone else []
    apart = alone or two_runs
    if by_speedup:
        notes.append("two runs: latency over each run's own baseline")
    if by_rate:
        notes.append("the change is that of the time for a call at the highest rate")
    if accuracy is None and first_old.get("Accuracy Low") is not None and first_new.get("Accuracy Low") is not None:
        notes.append(OTHER_IMAGES)
    notes += [f"{name}: {session.row['Unstable Because']}" for name, sessions in (("old", old), ("new", new))
              for session in sessions if session.row.get("Stable") is False]  # fmt: skip
    return Change(
        cell=key,
        verdict=verdict(ratio, tolerance if apart else TOLERANCE),
        reason="; ".join(dict.fromkeys(notes)),
        old_ms=_mean(_timed(old, False)) * 1e3,
        new_ms=_mean(_timed(new, False)) * 1e3,
        old_speedup=1 / _mean(_speedups(old)) if by_speedup else None,
        new_speedup=1 / _mean(_speedups(new)) if by_speedup else None,
        ratio=ratio,
        layers=changed_layers(old[0].layers, new[0].layers),
        accuracy=accuracy,
        apart=apart,
        old=first_old,
        new=first_new,
    )


def settings_differ(old: Row, new: Row) -> str:
    """The first setting that matters and differs; empty where none does."""
    if old.get("Scenario") != new.get("Scenario"):
        return f"scenario: {old.get('Scenario')} and {new.get('Scenario')}"
    before, after = (_settings(row) for row in (old, new))
    for name in [name for name in before if name in after]:
        if before[name] != after[name]:
            return f"{name}: {before[name]} and {after[name]}"
    return ""


def _settings(row: Row) -> dict[str, Any]:
    """Those that matter and that the backend has."""
    options = UNSAID | json.loads(row.get("Options") or "{}")
    found = {f"option {name}": options[name] for name in MATTER if name in options}
    rate = "searched" if row.get("Rate Searched") else row.get("Rate (1/s)")
    told = {"calls a second": rate, "CUDA graph": row.get("CUDA Graph")}
    return found | {name: value for name, value in told.items() if value is not None}


def changed_layers(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[str]:
    """Compute layers that both engines have, by name, and that execute in another precision: "conv1: FP16 → FP32"."""
    before = {layer["name"]: layer.get("precision", "") for layer in old if layer.get("compute")}
    after = {layer["name"]: layer.get("precision", "") for layer in new if layer.get("compute")}
    return [f"{n}: {p} → {after[n]}" for n, p in before.items() if n in after and after[n] != p]


def _accuracy(old: Session, new: Session) -> PairedDifference | None:
    if old.right is None or new.right is None or not old.images or old.images != new.images:
        return None
    return paired_difference(new.right, old.right)


def _hindrance(old: list[Session], new: list[Session]) -> str:
    for name, sessions in (("old", old), ("new", new)):
        if not sessions:
            return f"not in the {name} side"
        if bad := [s.row for s in sessions if s.row["Outcome"] != "ok"]:
            return f"{bad[0]['Outcome']} in the {name} side: {bad[0]['Reason']}"
        if not all(_is_timed(session.row) for session in sessions):
            return f"not timed in the {name} side"
        if any(session.row.get("Valid") is False for session in sessions):
            return f"the server run of the {name} side is invalid"
    return ""


def _all_sound(sessions: list[Session]) -> bool:
    return bool(sessions) and all(_is_timed(one.row) and one.row.get("Valid") is not False for one in sessions)


def _is_timed(row: Row) -> bool:
    return row.get("Outcome") == "ok" and row.get("Inference Time (ms)") is not None


def _labels(inputs: dict[str, Any]) -> str:
    labels = json_format.ParseDict(inputs, Images()).labels
    return f"{labels.sha256} {labels.size}" if labels.size else ""


def _timed(sessions: list[Session], by_rate: bool) -> list[float]:
    """Independent medians in seconds: of the sessions, or of the blocks of a single one; `by_rate`: seconds a call."""
    if by_rate:
        return [1 / session.row["Rate (1/s)"] for session in sessions]
    if len(sessions) == 1 and sessions[0].blocks:
        return sessions[0].blocks  # the tolerance makes up for what sessions differ
    return [session.row["Inference Time (ms)"] / 1e3 for session in sessions]


def _mean(values: Sequence[float]) -> float:
    """Geometric: the ratio of two of them is what is compared."""
    return math.exp(sum(math.log(value) for value in values) / len(values))


def _speedups(sessions: list[Session]) -> list[float]:
    """Latency over the baseline's of the same session, of each; empty where one was not paired."""
    found = [session.row.get("Speedup") if session.row.get("Paired") else None for session in sessions]
    return [1 / value for value in found if value] if all(found) else []


def _by_speedup(old: list[Session], new: list[Session]) -> Ratio:
    """New over old latency, each over its own run's baseline: a machine that changed between them is in neither."""
    if min(len(old), len(new)) > 1:
        return unpaired_ratio(_speedups(new), _speedups(old))
    value = _mean(_speedups(new)) / _mean(_speedups(old))
    half = NORMAL * math.hypot(*(speedup_error([session.row for session in side]) for side in (old, new)))
    return Ratio(value=value, low=value * math.exp(-half), high=value * math.exp(half))


def _split(text: str) -> tuple[Path, str]:
    """Folders and targets may hold colons themselves: the folder is what there is."""
    parts = text.split(":")
    for count in range(len(parts), 0, -1):
        folder = Path(":".join(parts[:count]))
        if folder.is_dir():
            return folder, ":".join(parts[count:])
    return Path(text), ""


def _result(ledger: Ledger, step: str) -> dict[str, Any]:
    record = ledger.step(step) if step else None
    return (record.result or {}) if record is not None else {}


def _right(score: dict[str, Any], store: BlobStore) -> np.ndarray | None:
    """Of the variant; None where the model is no classifier, or the blob is gone."""
    if "right" not in score:
        return None
    blob = json_format.ParseDict(score["right"], Blob())
    return store.array(blob)[0] if store.has(blob) else None


def _blocks(run: Path) -> dict[str, list[float]]:
    """Medians of each cell's blocks, of the variant; seconds."""
    query = "SELECT cell, block, median(latency) FROM calls WHERE role = 'variant' GROUP BY ALL ORDER BY ALL"
    found: dict[str, list[float]] = defaultdict(list)
    with calls_of(run) as connection:
        for cell, _, median in connection.execute(query).fetchall():
            found[cell].append(median)
    return dict(found)


def as_json(change: Change) -> dict[str, Any]:
    """A change for scripts."""
    ratio, accuracy = change.ratio, change.accuracy
    return {
        "cell": list(change.cell),
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


def markdown(changes: list[Change], old: str, new: str) -> str:
    """The changes as a Markdown table, for a pull request."""
    lines = [f"`{old}` → `{new}`", "", "| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    lines += ["| " + " | ".join(text.replace("|", "\\|") for text in cells(one)) + " |" for one in changes]
    return "\n".join(lines) + "\n"


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


def cells(change: Change) -> list[str]:
    """A change as texts under COLUMNS."""
    ratio = change.ratio
    shown = "" if ratio is None else f"{ratio.value - 1:+.1%} ({ratio.low - 1:+.1%} to {ratio.high - 1:+.1%})"
    if ratio is not None and not math.isfinite(ratio.high):
        shown = f"{ratio.value - 1:+.1%} (no interval)"
    layers = "" if not change.layers else f"{len(change.layers)} layers differ: {', '.join(change.layers[:3])}"
    return [
        cell_name(change.cell),
        _number(change.old_ms, 3),
        _number(change.new_ms, 3),
        _both(_number(change.old_speedup, 2), _number(change.new_speedup, 2)),
        shown,
        change.verdict,
        _both(*(_number(row.get("Accuracy"), 2) for row in (change.old, change.new))),
        change.accuracy_verdict,
        _both(*(str(row.get("Executed Precision") or "") for row in (change.old, change.new))),
        "; ".join(text for text in (layers, change.reason) if text),
    ]


def cell_name(cell: tuple[Any, ...]) -> str:
    """A cell in words."""
    model, dataset, recipe, batch_size, concurrency, *target = cell
    at_once = [f"{concurrency} at once"] if concurrency not in (None, 1) else []
    return ", ".join([str(model), str(dataset), str(recipe), f"batch {batch_size}", *at_once, *target])


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _both(old: str, new: str) -> str:
    return old if old == new else f"{old} → {new}"
