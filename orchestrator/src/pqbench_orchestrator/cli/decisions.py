"""Commands that read results and decide: compare, recommend, why, check."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from google.protobuf import json_format

from pqbench_orchestrator import experiment
from pqbench_orchestrator.cli.app import (
    OK,
    RUN,
    SOME_FAILED,
    CellName,
    InventoryPath,
    Json,
    RunData,
    RunName,
    app,
    console,
    errors,
    note,
    points_of,
    run_of,
    seconds_of,
    show,
)
from pqbench_orchestrator.decide import compare, sides
from pqbench_orchestrator.decide.gate import Gate, judge
from pqbench_orchestrator.decide.recommend import broken_again
from pqbench_orchestrator.decide.remeasure import Line
from pqbench_orchestrator.execution.session import Settings
from pqbench_orchestrator.output import comparison, recommendation, terminal
from pqbench_orchestrator.output.outputs import cells_of
from pqbench_orchestrator.results.cell import CellResult
from pqbench_orchestrator.results.latencies import fit, profiled
from pqbench_orchestrator.results.named_cell import check_finished, profiled_alike, recorded_cell
from pqbench_orchestrator.results.why import LAUNCHES, explain, explain_engine
from pqbench_wire.catalog import unknown
from pqbench_wire.errors import InvalidInput


@app.command("compare")
def compare_command(
    old: Annotated[str, typer.Argument(help=f"{RUN} RUN:TARGET is one of its targets.", show_default=False)],
    new: Annotated[str, typer.Argument(help="The same, to compare with it.", show_default=False)],
    fail_on_regression: Annotated[
        str, typer.Option(help="Exit 1 if a cell is slower by over this (such as 3%), less accurate or no longer runs.")
    ] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a pull request.")] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Compare cells even if their settings differ.")] = False,
    tolerance: Annotated[str, typer.Option(help="Smaller changes count as none (two runs, or one session).")] = "5%",
    absolute: Annotated[
        bool, typer.Option("--absolute", help="Judge also latencies of two runs that no baseline was measured with.")
    ] = False,
    junit: Annotated[Path | None, typer.Option(help="Also write the verdicts as JUnit XML, for CI.")] = None,
    data: RunData = None,
    as_json: Json = False,
) -> None:
    """Compare two runs, two targets of a run, or two machines: better, worse, same, or not comparable and why."""
    limit = points_of(fail_on_regression, "--fail-on-regression") / 100 if fail_on_regression else None
    least = points_of(tolerance, "--tolerance") / 100
    folder = data or Path("data")
    changes = compare.compare(sides.side(old, folder), sides.side(new, folder), anyway, least)
    if as_json:
        print(json.dumps([comparison.as_json(one) for one in changes]))
    elif markdown:
        print(comparison.markdown(changes, old, new), end="")
    else:
        console.print(terminal.changes_table(changes))
        show(comparison.counts(changes))
    if junit is not None:
        junit.write_text(comparison.junit(judge(changes, limit or 0.0, absolute), old, new), encoding="utf-8")
    if limit is not None:
        raise typer.Exit(SOME_FAILED if gate(changes, limit, least, absolute).worse else OK)
    if all(one.verdict == compare.NOT_COMPARABLE and not one.is_built for one in changes):
        raise InvalidInput("nothing could be compared: see each cell's note")


def gate(changes: list[compare.Change], limit: float, tolerance: float, absolute: bool) -> Gate:
    """Judge the changes for --fail-on-regression and print what came out. Raises InvalidInput if none could be judged.

    `limit` and `tolerance`: relative changes of latency.
    """
    found = judge(changes, limit, absolute)
    errors.print("\n".join(comparison.of_gate(found, limit, tolerance)), markup=False)
    if not found.has_judged:
        raise InvalidInput("no cell could be judged, so a regression cannot be excluded")
    return found


@app.command("recommend")
def recommend_command(
    run: RunName,
    minimize: Annotated[str, typer.Option(help="latency, size or energy; default: the manifest's goal.")] = "",
    max_drop: Annotated[str, typer.Option(help="Largest loss of accuracy in percentage points, such as 1%.")] = "",
    p99: Annotated[str, typer.Option(help="Upper bound of the 99th percentile latency, such as 5ms.")] = "",
    max_size: Annotated[float | None, typer.Option(min=0, help="Upper bound of the engine size in MB.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only this model (repeatable).")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="Only this dataset (repeatable).")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Only this target (repeatable).")] = None,
    batch_size: Annotated[list[int] | None, typer.Option(help="Only this batch size (repeatable).")] = None,
    measure: Annotated[bool, typer.Option(help="Measure the choice again, unless an earlier call did.")] = True,
    inventory: InventoryPath = None,
    data: RunData = None,
    as_json: Json = False,
) -> None:
    """Recommend the recipe to ship under constraints, and show those statistically indistinguishable from it."""
    folder = run_of(run, data)
    goal = experiment.goal_of(folder, {
        "minimize": minimize or None,
        "max_drop": points_of(max_drop, "--max-drop") if max_drop else None,
        "p99_seconds": seconds_of(p99, "--p99") if p99 else None,
        "max_megabytes": max_size,
    })  # fmt: skip

    filters = {"model": model, "dataset": dataset, "target": target, "batch_size": batch_size}
    _check_names(filters, cells_of(folder))

    def is_wanted(cell: CellResult) -> bool:
        return all(not chosen or getattr(cell, name) in chosen for name, chosen in filters.items())

    with terminal.LiveDisplay(errors) as live:
        settings = Settings(data=data or folder.data, inventory=inventory, say=live.say)
        found = experiment.recommendations(folder, settings, goal, is_wanted, measure)
    if not found:
        built = any(is_wanted(cell) and cell.is_built_only for cell in cells_of(folder))
        hint = "; engines that were only built are compared by --minimize size" if built else ""
        raise InvalidInput(f"{folder}: no timed cell matches --model, --dataset, --target, --batch-size{hint}")
    if as_json:
        print(json.dumps([recommendation.as_json(*one, folder) for one in found]))
    else:
        for one, confirmed in found:
            show("\n".join(recommendation.text(one, str(folder), confirmed)) + "\n")
    raise typer.Exit(decided(found))


def _check_names(filters: Mapping[str, Sequence[str | int] | None], cells: Sequence[CellResult]) -> None:
    """Raise InvalidInput for a value of an option, by its cells' attribute, that no cell of the run has."""
    for attribute, chosen in filters.items():
        known = list(dict.fromkeys(str(getattr(cell, attribute)) for cell in cells))
        for value in map(str, chosen or ()):
            if value not in known:
                option = f"--{attribute.replace('_', '-')}"
                raise InvalidInput(f"{option}: {unknown(attribute.replace('_', ' '), value, known)}")


def decided(found: experiment.Recommended) -> int:
    """The exit code: 0 if every recommendation has a proven recipe that kept its bounds when measured again, else 1."""
    kept = [one.is_proven and not broken_again(one, confirmed) for one, confirmed in found]
    return OK if kept and all(kept) else SOME_FAILED


@app.command("why")
def why_command(
    run: RunName,
    cell: CellName,
    latencies: Annotated[
        bool,
        typer.Option("--latencies", help="Print each layer's time for a manifest, from all cells of its kind."),
    ] = False,
    data: RunData = None,
    as_json: Json = False,
) -> None:
    """Explain why a cell is not faster: theoretical speed-up, time by precision, conversions, fallbacks, bottleneck."""
    result, results = recorded_cell(run_of(run, data), cell)
    about = f"{result.model}, {result.recipe}, {result.target}, batch {result.batch_size}"
    if result.is_built_only and "build" in results:
        _show_engine(about, explain_engine(result, results), as_json)
        return
    check_finished(result, cell)
    if "profile" not in results:
        known = result.causes.text if result.causes else ""
        raise InvalidInput(f"cell {cell}: {known or 'no profile; set measure.profile_seconds and run again'}")
    found = explain(result, results)
    if latencies:
        if found.converting is None:
            raise InvalidInput(f"cell {cell}: {LAUNCHES}")
        _print_latencies(profiled_alike(run_of(run, data), result), as_json)
        return
    if as_json:
        layers = [json_format.MessageToDict(layer) for layer in found.layers]
        print(
            json.dumps({"text": found.text, "bound_by": found.flags, "precisions": found.precisions, "layers": layers})
        )
        return
    console.print(about, style="bold", markup=False)
    console.print(found.text, highlight=False, markup=False)
    console.print(terminal.layers_table(found))


def _print_latencies(cells: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """The time of each layer in microseconds, fitted to cells, and on standard error how well it fits."""
    fitted = fit([profiled(results) for results in cells])
    note(fitted.summary)
    named = {"latencies": fitted.as_option()}
    if as_json:
        print(json.dumps(named | {"cells": fitted.cells, "error": fitted.error}))
        return
    print(yaml.safe_dump(named, sort_keys=False, width=120, default_flow_style=None).rstrip())


def _show_engine(about: str, text: str, as_json: bool) -> None:
    """What is known of a cell whose engine was built and not measured."""
    if as_json:
        print(json.dumps({"text": text, "bound_by": [], "precisions": {}, "layers": []}))
        return
    console.print(about, style="bold", markup=False)
    console.print(text, highlight=False, markup=False)


@app.command("check")
def check_command(
    run: RunName,
    cell: CellName,
    inventory: InventoryPath = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="Seconds that each vendor tool runs.")] = 3.0,
    data: RunData = None,
    as_json: Json = False,
) -> None:
    """Measure a cell's engine again, with pqbench and with vendor tools: trtexec, benchmark_app and the like."""
    folder = run_of(run, data)
    settings = Settings(data=data or folder.data, inventory=inventory)
    with terminal.LiveDisplay(errors) as live:
        lines = experiment.check(folder, cell, replace(settings, say=live.say), seconds)
    if as_json:
        print(json.dumps([_line_json(line) for line in lines]))
    else:
        console.print(terminal.check_table(lines))


def _line_json(line: Line) -> dict[str, Any]:
    own = {"who": line.tool, "definition": line.definition, "statistic": line.statistic, **line.ms, "note": line.note}
    return own if line.command is None else own | {"command": line.command}
