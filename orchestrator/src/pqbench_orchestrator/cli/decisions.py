"""Commands that read results and decide: compare, recommend, why, check."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated, Any

import typer
from google.protobuf import json_format

from pqbench_orchestrator import experiment
from pqbench_orchestrator.cli.app import (
    OK,
    SOME_FAILED,
    BlobFolder,
    CellKey,
    InventoryPath,
    Json,
    RunPath,
    app,
    console,
    errors,
    points_of,
    seconds_of,
    show,
)
from pqbench_orchestrator.decide import compare, sides
from pqbench_orchestrator.decide.recommend import broken_again
from pqbench_orchestrator.decide.remeasure import Line
from pqbench_orchestrator.execution.session import Settings
from pqbench_orchestrator.output import comparison, recommendation, terminal
from pqbench_orchestrator.results.cell import CellResult
from pqbench_orchestrator.results.collect import finished_cell
from pqbench_orchestrator.results.why import explain
from pqbench_orchestrator.store.run_folder import RunFolder
from pqbench_wire.errors import InvalidInput


@app.command("compare")
def compare_command(
    old: Annotated[str, typer.Argument(help="RUN, or RUN:TARGET.", show_default=False)],
    new: Annotated[str, typer.Argument(help="RUN, or RUN:TARGET.", show_default=False)],
    fail_on_regression: Annotated[
        str, typer.Option(help="Exit 1 if a cell is slower by over this (such as 3%), less accurate or no longer runs.")
    ] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a pull request.")] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Compare cells even if their settings differ.")] = False,
    tolerance: Annotated[str, typer.Option(help="Smaller changes count as none (two runs, or one session).")] = "5%",
    as_json: Json = False,
) -> None:
    """Compare two runs, two targets of a run, or two machines: better, worse, same, or not comparable and why."""
    limit = points_of(fail_on_regression, "--fail-on-regression") / 100 if fail_on_regression else None
    least = points_of(tolerance, "--tolerance") / 100
    changes = compare.compare(sides.side(old), sides.side(new), anyway, least)
    if as_json:
        print(json.dumps([comparison.as_json(one) for one in changes]))
    elif markdown:
        print(comparison.markdown(changes, old, new), end="")
    else:
        console.print(terminal.changes_table(changes))
    if limit is not None:
        raise typer.Exit(gate(changes, limit, least))


def gate(changes: list[compare.Change], limit: float, tolerance: float) -> int:
    """The exit code of --fail-on-regression, after printing why. Raises InvalidInput where nothing could be compared.

    `limit` and `tolerance`: relative changes of latency.
    """
    worse = compare.regressions(changes, limit)
    compared = [one for one in changes if one.verdict != compare.NOT_COMPARABLE]
    not_compared = [one for one in changes if one.verdict == compare.NOT_COMPARABLE and one not in worse]
    if not compared and not worse:
        raise InvalidInput("no cell could be compared, so a regression cannot be excluded: see each cell's reason")
    if not_compared:
        errors.print(f"{len(not_compared)} of {len(changes)} cells could not be compared")
    if any(one.is_apart for one in compared) and limit < tolerance:
        errors.print(f"for two runs or one session, a change under {tolerance:.1%} counts as none: set --tolerance")
    if worse:
        lost = sum(one.is_lost for one in worse)
        errors.print(
            f"{len(worse)} of {len(changes)} cells got worse{f', {lost} of them no longer run' if lost else ''}"
        )
    return SOME_FAILED if worse else OK


@app.command("recommend")
def recommend_command(
    folder: RunPath,
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
    data: BlobFolder = None,
    as_json: Json = False,
) -> None:
    """Recommend the recipe to ship under constraints, and show those statistically indistinguishable from it."""
    run = RunFolder(folder)
    goal = experiment.goal_of(run, {
        "minimize": minimize or None,
        "max_drop": points_of(max_drop, "--max-drop") if max_drop else None,
        "p99_seconds": seconds_of(p99, "--p99") if p99 else None,
        "max_megabytes": max_size,
    })  # fmt: skip

    def is_wanted(cell: CellResult) -> bool:
        filters = ((model, cell.model), (dataset, cell.dataset), (target, cell.target), (batch_size, cell.batch_size))
        return all(not chosen or value in chosen for chosen, value in filters)

    with terminal.LiveDisplay(errors) as live:
        settings = Settings(data=data or run.data, inventory=inventory, say=live.say)
        found = experiment.recommendations(run, settings, goal, is_wanted, measure)
    if not found:
        raise InvalidInput(f"{folder}: no timed cell matches --model, --dataset, --target, --batch-size")
    if as_json:
        print(json.dumps([recommendation.as_json(*one) for one in found]))
    else:
        for one, confirmed in found:
            show("\n".join(recommendation.text(one, str(run), confirmed)) + "\n")
    raise typer.Exit(decided(found))


def decided(found: experiment.Recommended) -> int:
    """The exit code: 0 if every recommendation has a proven recipe that kept its bounds when measured again, else 1."""
    kept = [one.is_proven and not broken_again(one, confirmed) for one, confirmed in found]
    return OK if kept and all(kept) else SOME_FAILED


@app.command("why")
def why_command(
    folder: RunPath,
    cell: CellKey,
    as_json: Json = False,
) -> None:
    """Explain why a cell is not faster: theoretical speed-up, time by precision, conversions, fallbacks, bottleneck."""
    result, results = finished_cell(RunFolder(folder), cell)
    if "profile" not in results:
        known = result.causes.text if result.causes else ""
        raise InvalidInput(f"cell {cell}: {known or 'no profile; set measure.profile_seconds and run again'}")
    found = explain(result, results)
    if as_json:
        layers = [json_format.MessageToDict(layer) for layer in found.layers]
        print(
            json.dumps({"text": found.text, "bound_by": found.flags, "precisions": found.precisions, "layers": layers})
        )
        return
    about = f"{result.model}, {result.recipe}, {result.target}, batch {result.batch_size}"
    console.print(about, style="bold", markup=False)
    console.print(found.text, highlight=False, markup=False)
    console.print(terminal.layers_table(found))


@app.command("check")
def check_command(
    folder: RunPath,
    cell: CellKey,
    inventory: InventoryPath = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="Seconds that each vendor tool runs.")] = 3.0,
    data: BlobFolder = None,
    as_json: Json = False,
) -> None:
    """Measure a cell's engine again, with pqbench and with vendor tools: trtexec, benchmark_app and the like."""
    run = RunFolder(folder)
    settings = Settings(data=data or run.data, inventory=inventory)
    with terminal.LiveDisplay(errors) as live:
        lines = experiment.check(run, cell, replace(settings, say=live.say), seconds)
    if as_json:
        print(json.dumps([_line_json(line) for line in lines]))
    else:
        console.print(terminal.check_table(lines))


def _line_json(line: Line) -> dict[str, Any]:
    own = {"who": line.tool, "definition": line.definition, "statistic": line.statistic, **line.ms, "note": line.note}
    return own if line.command is None else own | {"command": line.command}
