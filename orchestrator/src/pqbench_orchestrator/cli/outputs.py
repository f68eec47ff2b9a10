"""Commands that write, check or show results: report, export, verify, serve."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pqbench_orchestrator import experiment
from pqbench_orchestrator.cli.app import SOME_FAILED, CellName, Data, Json, RunData, RunName, app, console, run_of, show
from pqbench_orchestrator.output.bundle import export_cell
from pqbench_orchestrator.output.predict import PREDICT
from pqbench_orchestrator.output.report.export import latex, markdown, write_figures
from pqbench_orchestrator.output.signing import SIGNATURE, read_key, verify
from pqbench_orchestrator.store import postgres
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
    sign: Annotated[
        Path | None, typer.Option(help="Sign it with this secret key of minisign.", metavar="KEY", show_default=False)
    ] = None,
    data: RunData = None,
) -> None:
    """Write a cell as a deployable bundle: model, engine, weights, history, preprocessing, samples, model card."""
    folder = run_of(run, data)
    key = read_key(sign, lambda: typer.prompt("password of the key", hide_input=True, err=True)) if sign else None
    bundle = export_cell(folder, cell, out, folder.blobs(data), key)
    show(str(bundle))
    if (bundle / PREDICT).exists():
        show(f"try it: python {bundle / PREDICT} IMAGE")


@app.command("verify")
def verify_command(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.", metavar="BUNDLE", show_default=False)],
    key: Annotated[
        str | None,
        typer.Option(help="Public key of minisign, or its file, that must have signed it.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that a bundle is as it was exported and, with --key, who signed it. Exit code 1 if it is not."""
    found = verify(bundle, key)
    if as_json:
        show(json.dumps(asdict(found), indent=1))
    else:
        show("\n".join(found.problems) or f"{bundle}: {found.files} files as they were exported")
        if found.signed_as is not None:
            show(f"signed as: {found.signed_as}")
        elif found.is_signed and key is None:
            show(f"signed, by whom was not checked: --key KEY.pub ({SIGNATURE})")
    if found.problems:
        raise typer.Exit(SOME_FAILED)


@app.command("serve")
def serve_command(
    data: Data = Path("data"),
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1; from other machines, use an SSH tunnel.")
    ] = 8765,
    ledger: Annotated[
        str, typer.Option(help="Also show the runs with their ledgers in this database: postgresql://…", metavar="URL")
    ] = "",
) -> None:
    """Show all runs in a browser: live progress, history, reports, comparisons. Runs do not depend on it."""
    from pqbench_orchestrator.output.web.serve import serve  # the web server takes a second to import

    experiments = (data / EXPERIMENTS).resolve()
    if ledger:
        postgres.check(ledger)
    elif not experiments.is_dir():
        raise InvalidInput(f"{experiments}: there are no runs yet; pqbench run makes the first")
    console.print(f"http://127.0.0.1:{port}/", highlight=False)
    serve(experiments, port, ledger)
