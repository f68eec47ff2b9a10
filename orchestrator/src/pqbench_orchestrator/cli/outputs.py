"""Commands that write or show results: report, export, serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pqbench_orchestrator import experiment
from pqbench_orchestrator.cli.app import CellName, Data, RunData, RunName, app, console, run_of, show
from pqbench_orchestrator.output.bundle import export_cell
from pqbench_orchestrator.output.predict import PREDICT
from pqbench_orchestrator.output.report.export import latex, markdown, write_figures
from pqbench_orchestrator.store.run_folder import EXPERIMENTS
from pqbench_wire.errors import InvalidInput


@app.command("report")
def report_command(
    run: RunName,
    figures: Annotated[
        Path | None, typer.Option(help="Folder for the figures as SVG and PNG and the table as Markdown and LaTeX.")
    ] = None,
    data: RunData = None,
) -> None:
    """Write a run's report.html again from its ledger; with --figures, also its figures and its table as files."""
    page, cells = experiment.report_again(run_of(run, data))
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
    run: RunName,
    cell: CellName,
    out: Annotated[Path, typer.Option(help="New folder for the bundle.", show_default=False)],
    data: RunData = None,
) -> None:
    """Write a cell as a deployable bundle: model, engine, weights, history, preprocessing, samples, model card."""
    folder = run_of(run, data)
    bundle = export_cell(folder, cell, out, folder.blobs(data))
    show(str(bundle))
    if (bundle / PREDICT).exists():
        show(f"try it: python {bundle / PREDICT} IMAGE")


@app.command("serve")
def serve_command(
    data: Data = Path("data"),
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1; from other machines, use an SSH tunnel.")
    ] = 8765,
) -> None:
    """Show all runs in a browser: live progress, history, reports, comparisons. Runs do not depend on it."""
    from pqbench_orchestrator.output.web.serve import serve  # the web server takes a second to import

    experiments = (data / EXPERIMENTS).resolve()
    if not experiments.is_dir():
        raise InvalidInput(f"{experiments}: there are no runs yet; pqbench run makes the first")
    console.print(f"http://127.0.0.1:{port}/", highlight=False)
    serve(experiments, port)
