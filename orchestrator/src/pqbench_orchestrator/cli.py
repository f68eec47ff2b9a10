"""The `pqbench` command."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from google.protobuf import json_format
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from pqbench_orchestrator import experiment
from pqbench_orchestrator.commands import doctor
from pqbench_orchestrator.commands.clean import clean
from pqbench_orchestrator.commands.plugins import KINDS, listing
from pqbench_orchestrator.config.load import read_experiment
from pqbench_orchestrator.decide import compare
from pqbench_orchestrator.decide.recommend import broken_again
from pqbench_orchestrator.decide.remeasure import Line
from pqbench_orchestrator.execution.execute import NullWatcher
from pqbench_orchestrator.execution.session import Settings, session_of_manifest
from pqbench_orchestrator.output import comparison, recommendation, sensitivity, terminal
from pqbench_orchestrator.output.bundle import export_cell
from pqbench_orchestrator.output.mlflow import check_reachable
from pqbench_orchestrator.output.report.export import latex, markdown, write_figures
from pqbench_orchestrator.results.cell import CellResult
from pqbench_orchestrator.results.collect import finished_cell
from pqbench_orchestrator.results.tables import as_row, count_outcomes
from pqbench_orchestrator.results.why import explain
from pqbench_orchestrator.store.run_folder import MANIFEST, REPORT, TRIALS, RunFolder
from pqbench_wire.errors import InvalidInput, PqbenchError

OK, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

WIDE = 160  # columns of a table that no terminal shows: a file, a pipe, a log

console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def show(text: str) -> None:
    """Print a text as it is: names and reasons may hold what Rich takes for markup."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def _note(text: str) -> None:
    errors.print(text, markup=False)


class Commands(TyperGroup):
    """The commands: an expected failure is one line and exit code 2, an interrupt is 130."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except (PqbenchError, OSError) as error:
            errors.print(f"error: {error}", markup=False)
            raise typer.Exit(BAD_INPUT) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

ManifestPath = Annotated[Path, typer.Argument(help="Manifest (YAML).", show_default=False)]
Data = Annotated[Path, typer.Option(help="Folder of blobs, datasets, experiments.")]
InventoryPath = Annotated[
    Path | None, typer.Option("--inventory", help="Where services run (YAML); default: local processes.")
]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Run the Python files of the manifest: models, steps, datasets.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


@app.command("run")
def run_command(
    manifest: Annotated[
        Path, typer.Argument(help="Manifest (YAML), or a run's folder with --continue.", show_default=False)
    ],
    data: Data = Path("data"),
    inventory: InventoryPath = None,
    again: Annotated[
        bool, typer.Option("--continue", help="Finish the newest run of this manifest, or this run.")
    ] = False,
    allow_code: AllowCode = False,
    mlflow: Annotated[str, typer.Option(help="Also log to this MLflow tracking URI.", metavar="URI")] = "",
    as_json: Json = False,
) -> None:
    """Run an experiment: manifest in, tables and report out."""
    if mlflow:
        check_reachable(mlflow)
    with terminal.LiveDisplay(errors) as live:
        settings = _settings(live, manifest, data, inventory, allow_code, again)
        begin = experiment.run_to_continue if again else experiment.new_run
        run = begin(manifest, settings)
        try:
            cells = experiment.execute(run, settings, live, live.planned)
        except KeyboardInterrupt:
            errors.print(f"interrupted; what is finished is kept: {_go_on('run', run, settings)}", markup=False)
            raise
    if as_json:
        print(json.dumps({"run": str(run), "cells": [as_row(cell) for cell in cells]}))
    else:
        console.print(terminal.results_table(cells))
        show(f"{terminal.summary(cells)}\nreport: {run / REPORT}")
    logged = not mlflow or _tracked(run, cells, mlflow)
    outcomes = count_outcomes(cells)
    raise typer.Exit(OK if logged and outcomes["ok"] and not outcomes["failed"] else SOME_FAILED)


def _settings(
    live: terminal.LiveDisplay, manifest: Path, data: Path, inventory: Path | None, allow_code: bool, again: bool
) -> Settings:
    """Of a run or a search. One that is continued by its folder has the data folder that it lies in."""
    is_folder = again and manifest.is_dir()
    return Settings(
        data=manifest.resolve().parent.parent if is_folder else data,
        inventory=inventory,
        allow_code=allow_code,
        say=live.say,
        note=live.note,
        manifest=None if is_folder else manifest,
        is_new=not again,
    )


def _go_on(command: str, run: RunFolder, settings: Settings) -> str:
    """The command that goes on with an interrupted run."""
    more = f" --inventory {settings.inventory}" if settings.inventory else ""
    return f"pqbench {command} --continue {run}{more}{' --allow-code' if settings.allow_code else ''}"


def _tracked(run: RunFolder, cells: Sequence[CellResult], uri: str) -> bool:
    """Whether MLflow took the run, which is complete without it."""
    try:
        experiment.track(run, cells, uri)
    except PqbenchError as error:
        errors.print(f"the run is complete, but MLflow did not take it: {error}", markup=False)
        return False
    return True


@app.command("search")
def search_command(
    manifest: Annotated[
        Path, typer.Argument(help="Manifest (YAML), or a search's folder with --continue.", show_default=False)
    ],
    data: Data = Path("data"),
    inventory: InventoryPath = None,
    again: Annotated[bool, typer.Option("--continue", help="Go on with the newest search of this manifest.")] = False,
    trials: Annotated[int | None, typer.Option(min=1, help="Recipes to try cheaply; default: the manifest's.")] = None,
    allow_code: AllowCode = False,
    as_json: Json = False,
) -> None:
    """Find the recipe to ship without trying all: cheap trials that Optuna proposes, the best of them in full."""
    from pqbench_orchestrator.decide.search import space_of  # Optuna takes a second to import

    with terminal.LiveDisplay(errors) as live:
        settings = _settings(live, manifest, data, inventory, allow_code, again)
        space_of(read_experiment(manifest / MANIFEST if manifest.is_dir() else manifest))
        begin = experiment.run_to_continue if again else experiment.new_run
        run = begin(manifest, settings, search=True)
        try:
            cells = experiment.search(run, settings, live, live.note, trials)
        except KeyboardInterrupt:
            errors.print(f"interrupted; what was tried is kept: {_go_on('search', run, settings)}", markup=False)
            raise
    found = experiment.recommended(run)
    if as_json:
        print(json.dumps({"run": str(run), "cells": [as_row(cell) for cell in cells],
                          "recommendations": [recommendation.as_json(*one) for one in found]}))  # fmt: skip
    else:
        console.print(terminal.results_table(cells))
        for one, confirmed in found:
            show("\n".join(recommendation.text(one, str(run), confirmed)))
        show(f"trials: {run / TRIALS}\nreport: {run / REPORT}")
    raise typer.Exit(_decided(found))


@app.command("plan")
def plan_command(
    manifest: ManifestPath,
    data: Data = Path("data"),
    inventory: InventoryPath = None,
    allow_code: AllowCode = False,
    as_json: Json = False,
) -> None:
    """Show the steps, what is cached already, and what cannot run and why; do no work."""
    settings = Settings(data=data, inventory=inventory, allow_code=allow_code, note=_note)
    with session_of_manifest(manifest, settings, NullWatcher()) as session:
        state = {step.key: session.execution.state(step) for step in session.plan.steps}
    if as_json:
        print(json.dumps(_plan_json(session.plan, state)))
        return
    console.print(terminal.plan_table(session.plan, state))
    if any(cell.outcome for cell in session.plan.cells):
        console.print(terminal.refusals_table(session.plan))


@app.command("sensitivity")
def sensitivity_command(
    manifest: ManifestPath,
    data: Data = Path("data"),
    inventory: InventoryPath = None,
    allow_code: AllowCode = False,
    images: Annotated[int, typer.Option(min=16, help="Held-out training images.")] = 256,
    as_json: Json = False,
) -> None:
    """Prune and round one layer at a time: accuracy against amount, as table and plot."""
    with terminal.LiveDisplay(errors) as live:
        settings = Settings(data=data, inventory=inventory, allow_code=allow_code, say=live.say, note=live.note)
        points, page = experiment.sensitivities(manifest, settings, images)
    if as_json:
        print(json.dumps({"page": str(page), "rows": [sensitivity.as_row(point) for point in points]}))
    else:
        show(f"{len(points)} points: {page.with_suffix('.csv')}\npage: {page}")


@app.command("report")
def report_command(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)],
    figures: Annotated[
        Path | None, typer.Option(help="Folder for the figures as SVG and PNG and the table as Markdown and LaTeX.")
    ] = None,
) -> None:
    """Write a run's report.html anew from its ledger; with --figures, its figures and tables as files too."""
    page, cells = experiment.report_again(RunFolder(folder))
    show(str(page))
    if figures is None:
        return
    files = write_figures(page, figures)
    for name, content in (("results.md", markdown(cells)), ("results.tex", latex(cells))):
        (figures / name).write_text(content, encoding="utf-8")
        files.append(figures / name)
    show("\n".join(str(path) for path in files))


@app.command("export")
def export_command(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)],
    cell: Annotated[str, typer.Argument(help="Cell, as the column Cell of results.csv names it.", show_default=False)],
    out: Annotated[Path, typer.Option(help="New folder for the bundle.", show_default=False)],
    data: Annotated[Path | None, typer.Option(help="Folder of blobs; default: the one the run lies in.")] = None,
) -> None:
    """Write a cell's deployable bundle: model, engine, weights, history, preprocessing, model card."""
    run = RunFolder(folder)
    show(str(export_cell(run, cell, out, run.blobs(data))))


@app.command("compare")
def compare_command(
    old: Annotated[str, typer.Argument(help="RUN, or RUN:TARGET.", show_default=False)],
    new: Annotated[str, typer.Argument(help="RUN, or RUN:TARGET.", show_default=False)],
    fail_on_regression: Annotated[
        str, typer.Option(help="Exit 1 if a cell is slower by more than this, or less accurate; as 3%.")
    ] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a pull request.")] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Compare also where settings that matter differ.")] = False,
    tolerance: Annotated[str, typer.Option(help="Change that is none between two runs or single sessions.")] = "5%",
    as_json: Json = False,
) -> None:
    """Compare two runs, two targets of a run, or two machines: better, worse, same, or not comparable and why."""
    limit = _points(fail_on_regression, "--fail-on-regression") / 100 if fail_on_regression else None
    least = _points(tolerance, "--tolerance") / 100
    changes = compare.compare(compare.side(old), compare.side(new), anyway, least)
    if as_json:
        print(json.dumps([comparison.as_json(one) for one in changes]))
    elif markdown:
        print(comparison.markdown(changes, old, new), end="")
    else:
        console.print(terminal.changes_table(changes))
    if limit is not None:
        raise typer.Exit(_gate(changes, limit, least))


def _gate(changes: list[compare.Change], limit: float, tolerance: float) -> int:
    """The exit code of --fail-on-regression. Raises InvalidInput where nothing could be compared."""
    worse = compare.regressions(changes, limit)
    told = [one for one in changes if one.verdict != compare.NOT_COMPARABLE]
    untold = [one for one in changes if one.verdict == compare.NOT_COMPARABLE and one not in worse]
    if not told and not worse:
        raise InvalidInput("no cell could be compared, so none can be said not to have got worse")
    if untold:
        errors.print(f"{len(untold)} of {len(changes)} cells could not be compared")
    if any(one.is_apart for one in told) and limit < tolerance:
        errors.print(f"no change under {tolerance:.1%} is told between two runs or single sessions: --tolerance")
    if worse:
        lost = sum(one.is_lost for one in worse)
        errors.print(
            f"{len(worse)} of {len(changes)} cells got worse{f', {lost} of them do not run any more' if lost else ''}"
        )
    return SOME_FAILED if worse else OK


def _points(text: str, option: str) -> float:
    """Points of a percentage, "1%" or "1"."""
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        raise InvalidInput(f"{option}: {text!r} is no percentage; write 3%") from None
    if not 0 <= value <= 100:
        raise InvalidInput(f"{option}: {text!r} is out of range; write 3%")
    return value


@app.command("recommend")
def recommend_command(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)],
    minimize: Annotated[str, typer.Option(help="latency, size or energy; default: the manifest's goal.")] = "",
    max_drop: Annotated[str, typer.Option(help="Accuracy that may be lost, in points, as 1%.")] = "",
    p99: Annotated[str, typer.Option(help="Bound of the 99th percentile, as 5ms.")] = "",
    max_size: Annotated[float | None, typer.Option(min=0, help="Bound of the engine's size in MB.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only this model (again for others).")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="Only this dataset.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Only this target.")] = None,
    batch_size: Annotated[list[int] | None, typer.Option(help="Only this batch size.")] = None,
    measure: Annotated[bool, typer.Option(help="Measure the choice again where no earlier run did.")] = True,
    inventory: InventoryPath = None,
    data: Annotated[Path | None, typer.Option(help="Folder of blobs; default: the one the run lies in.")] = None,
    as_json: Json = False,
) -> None:
    """The recipe to ship under constraints, its figures with intervals, what is not told apart, what it costs."""
    run = RunFolder(folder)
    goal = experiment.goal_of(run, {
        "minimize": minimize or None,
        "max_drop": _points(max_drop, "--max-drop") if max_drop else None,
        "p99_seconds": _seconds(p99, "--p99") if p99 else None,
        "max_megabytes": max_size,
    })  # fmt: skip

    def is_wanted(cell: CellResult) -> bool:
        filters = ((model, cell.model), (dataset, cell.dataset), (target, cell.target), (batch_size, cell.batch_size))
        return all(not chosen or value in chosen for chosen, value in filters)

    with terminal.LiveDisplay(errors) as live:
        settings = Settings(data=data or run.data, inventory=inventory, say=live.say)
        found = experiment.recommendations(run, settings, goal, is_wanted, measure)
    if not found:
        raise InvalidInput(f"{folder}: no timed cell is left by these filters")
    if as_json:
        print(json.dumps([recommendation.as_json(*one) for one in found]))
    else:
        for one, confirmed in found:
            show("\n".join(recommendation.text(one, str(run), confirmed)) + "\n")
    raise typer.Exit(_decided(found))


def _decided(found: experiment.Recommended) -> int:
    """0 where there is a recipe to ship for everything, proven on images enough, and within bounds measured again."""
    kept = [one.is_proven and not broken_again(one, confirmed) for one, confirmed in found]
    return OK if kept and all(kept) else SOME_FAILED


def _seconds(text: str, option: str) -> float:
    """Seconds from "5ms", "250us" or "0.005s"."""
    units = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
    unit = next((name for name in units if text.endswith(name)), "")
    try:
        value = float(text.removesuffix(unit)) * units[unit]
    except (KeyError, ValueError):
        raise InvalidInput(f"{option}: {text!r} is no time; write 5ms, 250us or 0.005s") from None
    if value <= 0:
        raise InvalidInput(f"{option}: {text!r} must be over 0")
    return value


@app.command("why")
def why_command(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)],
    cell: Annotated[str, typer.Argument(help="Cell, as the column Cell of results.csv names it.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Why is this cell not faster: speed-up in theory, time by precision, conversions, fallbacks, what binds it."""
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
    folder: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)],
    cell: Annotated[str, typer.Argument(help="Cell, as the column Cell of results.csv names it.", show_default=False)],
    inventory: InventoryPath = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="How long each tool runs.")] = 3.0,
    data: Annotated[Path | None, typer.Option(help="Folder of blobs; default: the one the run lies in.")] = None,
    as_json: Json = False,
) -> None:
    """Measure a cell's engine again, beside trtexec, benchmark_app and the like with the same settings."""
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


@app.command("serve")
def serve_command(
    data: Data = Path("data"),
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="On loopback; from elsewhere, through an SSH tunnel.")
    ] = 8765,
) -> None:
    """Show all runs in a browser: live progress, history, reports, comparisons. Runs go on without it."""
    from pqbench_orchestrator.output.web.serve import serve  # the web server takes a second to import

    experiments = (data / "experiments").resolve()
    if not experiments.is_dir():
        raise InvalidInput(f"{experiments}: there are no runs yet; pqbench run makes the first")
    console.print(f"http://127.0.0.1:{port}/", highlight=False)
    serve(experiments, port)


@app.command("clean")
def clean_command(
    data: Data = Path("data"),
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; else it is only counted.")] = False,
) -> None:
    """Remove what services keep beyond the runs: their results and caches, and blobs that no run refers to."""
    found = clean(data, remove=yes)
    done = "removed" if yes else "would be removed (--yes removes it)"
    show(f"{found.files} files of {found.size / 1e6:.1f} MB {done}; {found.kept / 1e6:.1f} MB belong to runs")


@app.command("list")
def list_command(
    kind: Annotated[str, typer.Argument(help=" | ".join(KINDS), show_default=False)], as_json: Json = False
) -> None:
    """List plug-ins: what there is, and what to install for the rest."""
    found = listing(kind)
    if as_json:
        print(json.dumps(found))
        return
    view = Table(header_style="bold")
    for name in ("Name", "Summary", "Available"):
        view.add_column(name)
    for entry in found:
        available = "yes" if entry["available"] else entry["unavailable_reason"]
        view.add_row(entry["name"], escape(entry["summary"]), escape(available))
    console.print(view)


@app.command("doctor")
def doctor_command(data: Data = Path("data"), as_json: Json = False) -> None:
    """Show versions, devices, free disk, and which backends are available."""
    facts = doctor.examine(data)
    if as_json:
        print(json.dumps(facts))
        return
    view = Table(show_header=False)
    for name, value in facts.items():
        text = "\n".join(f"{key}: {entry}" for key, entry in value.items()) if isinstance(value, dict) else str(value)
        view.add_row(name, escape(text))
    console.print(view)


def _plan_json(plan: Any, state: dict[str, str]) -> dict[str, Any]:
    steps = [
        {
            "key": s.key,
            "kind": s.kind,
            "label": s.label,
            "place": s.place,
            "needs": list(s.needs.values()),
            "state": state[s.key],
        }
        for s in plan.steps
    ]
    cells = [
        {"cell": c.key, "model": c.model, "dataset": c.dataset, "recipe": c.recipe.label, "target": c.target.name,
         "batch_size": c.batch_size, "concurrency": c.concurrency, "repeat": c.repeat,
         "outcome": c.outcome or "planned", "reason": c.reason}
        for c in plan.cells
    ]  # fmt: skip
    return {"steps": steps, "cells": cells}


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point."""
    signal.signal(signal.SIGTERM, _interrupt)
    app()


if __name__ == "__main__":
    main()
