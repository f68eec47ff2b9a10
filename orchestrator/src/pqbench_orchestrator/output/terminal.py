"""What the terminal shows: live progress, the plan, and tables of results."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NoReturn

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from pqbench_orchestrator.decide.compare import Change
from pqbench_orchestrator.decide.remeasure import PARTS, Line
from pqbench_orchestrator.output.comparison import COLUMNS, caption, common_notes, texts
from pqbench_orchestrator.planning.places import shown
from pqbench_orchestrator.planning.plan import Plan
from pqbench_orchestrator.results.cell import SHORT, CellResult, Timing
from pqbench_orchestrator.results.tables import count_outcomes, count_reasons, count_unstable
from pqbench_orchestrator.results.why import Why
from pqbench_orchestrator.steps.step import Step
from pqbench_orchestrator.store.ledger import StepRecord

COLOURS = {"ok": "green", "cached": "cyan", "refused": "yellow", "unavailable": "magenta", "failed": "red"}
SECONDS_A_LINE = 5  # at least, between two lines of progress in a log


class LiveDisplay:
    """A progress bar over the steps, which is redrawn only on events, because a timer would disturb measurements.

    It is a watcher of executions (`execution.execute.Watcher`), and on SIGINT and SIGTERM raises KeyboardInterrupt.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, auto_refresh=False, disable=not console.is_terminal)
        self._task = self._progress.add_task("planning", total=None)
        self._last_line, self._last_text = time.monotonic(), ""
        self._interrupted = False
        self._failed: Counter[str] = Counter()  # reason -> steps

    def __enter__(self) -> LiveDisplay:
        self._progress.start()
        self._handlers = {number: signal.signal(number, self._interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        for reason, count in self._failed.items():
            if count > 1:
                self.note(f"{count - 1} more failed for the same reason: {reason}")
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _interrupt(self, *_: object) -> NoReturn:
        """Raise KeyboardInterrupt now and, as native code may swallow it, again at the next event."""
        self._interrupted = True
        raise KeyboardInterrupt

    def _stop_if_interrupted(self) -> None:
        if self._interrupted:
            raise KeyboardInterrupt

    def say(self, text: str) -> None:
        """Show what is going on in the bar or, where none can be drawn (as in a log), in a line every few seconds.

        A text that says the same as the last line is not repeated.
        """
        self._progress.update(self._task, description=text, refresh=True)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line >= SECONDS_A_LINE and text != self._last_text:
            self._last_line, self._last_text = now, text
            task = self._progress.tasks[self._task]
            self.note(f"{task.completed:.0f}/{task.total or '?'} {text}")

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(text, highlight=False, markup=False)

    def planned(self, plan: Plan) -> None:
        """Set the bar's length to the plan's number of steps."""
        self._progress.update(self._task, total=len(plan.steps), refresh=True)

    def started(self, step: Step) -> None:
        """Show the step that starts."""
        self._stop_if_interrupted()
        self.say(f"{shown(step.place)}: {step.kind} {step.label}")

    def progress(self, step: Step, stage: str, fraction: float) -> None:
        """Show how far the step is, but nothing while it measures, so as not to disturb it."""
        self._stop_if_interrupted()
        if step.kind != "measure" or stage.startswith("waiting"):
            self.say(f"{shown(step.place)}: {stage} {step.label} {fraction:.0%}")

    def finished(self, step: Step, record: StepRecord) -> None:
        """Advance the bar, and print the reason of a failed step, each reason once."""
        self._progress.advance(self._task)
        self._progress.refresh()
        if record.outcome != "failed":
            return
        self._failed[record.reason] += 1
        if self._failed[record.reason] == 1:
            what = escape(f"{step.kind} {step.label}: {record.reason}")
            self._console.print(f"[red]failed[/] {what}", highlight=False)


def results_table(table: Sequence[CellResult]) -> Table:
    """The results as a terminal table."""
    view = Table(header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    view.add_column("Cell", min_width=SHORT)
    for name in ("Model", "Recipe", "Target", "Batch"):
        view.add_column(name, overflow="fold")
    for name in ("Accuracy %", "Median ms", "95 % interval", "Speed-up", "Engine MB"):
        view.add_column(name, justify="right")
    view.add_column("Executed in", overflow="fold")
    view.add_column("Outcome")
    for cell in table:
        view.add_row(*_texts(cell))
    return view


def _texts(cell: CellResult) -> list[str]:
    colour = COLOURS.get(cell.outcome, "white")
    outcome = f"[{colour}]{cell.outcome}[/]"
    if cell.is_unstable:
        outcome += " [yellow](unstable)[/]"
    if cell.fidelity.warnings:
        outcome += " [yellow](warning)[/]"
    return [
        cell.short_key,
        escape(cell.model),
        escape(cell.recipe),
        escape(cell.target),
        str(cell.batch_size),
        number(cell.top1_percent, 2),
        number(cell.median_ms, 3),
        _interval(cell.timing),
        number(cell.speedup, 2),
        number(None if cell.engine_bytes is None else cell.engine_bytes / 1e6, 3),
        (cell.engine.executed_precision or "") if cell.engine else "",
        outcome,
    ]


def _interval(timing: Timing | None) -> str:
    if timing is None or timing.median_low_ms is None or timing.median_high_ms is None:
        return ""
    return f"{timing.median_low_ms:.3f}-{timing.median_high_ms:.3f}"


def number(value: object, digits: int) -> str:
    """A number with so many digits after the point; empty for any other value."""
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else ""


def plan_summary(plan: Plan, state: Mapping[str, str], durations: Mapping[str, float]) -> str:
    """What a plan would do: cells by outcome, steps by kind, how many are cached, and an estimate of the time.

    `state`: key of a step -> "cached" or "to do"; `durations`: kind of step -> mean seconds in earlier runs.
    """
    outcomes = Counter(cell.outcome or "to run" for cell in plan.cells)
    to_do = Counter(step.kind for step in plan.steps if state[step.key] != "cached")
    kinds = dict.fromkeys(step.kind for step in plan.steps)
    total = Counter(step.kind for step in plan.steps)
    lines = [
        f"{len(plan.cells)} cells: {', '.join(f'{count} {outcome}' for outcome, count in outcomes.items())}",
        f"{len(plan.steps)} steps, {len(plan.steps) - to_do.total()} of them cached:",
        *(f"  {kind}: {total[kind]}, {total[kind] - to_do[kind]} cached" for kind in kinds),
        _estimate(to_do, durations),
    ]
    return "\n".join(lines)


def _estimate(to_do: Counter[str], durations: Mapping[str, float]) -> str:
    if not to_do:
        return "nothing is left to do"
    if not durations:
        return "time: not known before a first run in this data folder"
    unknown = [kind for kind in to_do if kind not in durations]
    if unknown:
        return f"time: not known; no earlier run in this data folder had a step of kind {', '.join(unknown)}"
    seconds = sum(count * durations[kind] for kind, count in to_do.items())
    shown = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
    return f"time: about {shown}, by the means of earlier runs"


def plan_table(plan: Plan, state: Mapping[str, str]) -> Table:
    """The steps of a plan; `state`: key of a step -> "cached" or "to do"."""
    view = Table(title=f"{len(plan.steps)} steps", header_style="bold")
    for name in ("Where", "Step", "What", "State"):
        view.add_column(name)
    for step in plan.steps:
        colour = COLOURS.get(state[step.key], "white")
        view.add_row(escape(step.place), step.kind, escape(step.label), f"[{colour}]{state[step.key]}[/]")
    return view


def refusals_table(plan: Plan) -> Table:
    """The cells that cannot run, with their reasons."""
    stopped = [cell for cell in plan.cells if cell.outcome]
    view = Table(title=f"{len(stopped)} of {len(plan.cells)} cells will not run", header_style="bold")
    for name in ("Model", "Recipe", "Target", "Batch", "Outcome", "Reason"):
        view.add_column(name)
    for cell in stopped:
        texts = (cell.model, cell.recipe.label, cell.target.name, str(cell.batch_size), cell.outcome, cell.reason)
        view.add_row(*map(escape, texts))
    return view


VERDICTS = {"better": "green", "worse": "red", "same": "cyan", "not comparable": "yellow"}


def changes_table(changes: list[Change]) -> Table:
    """What changed between two sides, one line per cell; nothing is cut."""
    said = common_notes(changes)
    view = Table(
        header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, caption=caption(changes), caption_justify="left"
    )
    for name in COLUMNS:
        view.add_column(name, overflow="fold")
    for change in changes:
        shown = [escape(text) for text in texts(change, said)]
        verdict = COLUMNS.index("Verdict")
        shown[verdict] = f"[{VERDICTS[change.verdict]}]{shown[verdict]}[/]"
        view.add_row(*shown)
    return view


MOST_LAYERS = 15


def layers_table(why: Why) -> Table:
    """The layers of a cell's engine that take most of the time, MOST_LAYERS at most."""
    whole = sum(layer.seconds for layer in why.layers) or 1e-12
    longest = sorted(why.layers, key=lambda layer: -layer.seconds)[:MOST_LAYERS]
    title = f"{len(longest)} of {len(why.layers)} layers, the slowest first"
    view = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("Layer", "Type", "Executed in", "Provider"):
        view.add_column(name, overflow="fold")
    for name in ("Time ms", "Share"):
        view.add_column(name, justify="right")
    for layer in longest:
        texts = (layer.name, layer.type, layer.precision, layer.provider)
        view.add_row(*map(escape, texts), number(layer.seconds * 1e3, 4), f"{layer.seconds / whole:.1%}")
    return view


def check_table(lines: Sequence[Line]) -> Table:
    """What each tool measured of one engine, in ms."""
    view = Table(header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    parts = [part for part in PARTS if any(part in line.ms for line in lines)]
    view.add_column("Tool")
    for part in parts:
        view.add_column(f"{part} ms", justify="right")
    for name in ("Statistic", "What is timed", "Note"):
        view.add_column(name)
    for line in lines:
        figures = [number(line.ms.get(part), 4) for part in parts]
        view.add_row(line.tool, *figures, line.statistic, line.definition, escape(line.note))
    return view


def summary(table: Sequence[CellResult]) -> str:
    """How many cells have each outcome, then a line for each reason and for each warning."""
    counts = count_outcomes(table)
    lines = [f"{len(table)} cells: " + ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())]
    unstable = count_unstable(table)
    lines[0] += f"; {unstable} of them unstable" if unstable else ""
    reasons = count_reasons(table)
    reasons += Counter(("warning", f"{cell.recipe} on {cell.target}: {cell.fidelity.warnings}")
                       for cell in table if cell.fidelity.warnings)  # fmt: skip
    return "\n".join([*lines, *(f"  {count} {outcome}: {reason}" for (outcome, reason), count in reasons.items())])
