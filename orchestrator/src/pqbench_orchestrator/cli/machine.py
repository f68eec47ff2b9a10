"""Commands about this machine: clean, list, doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from pqbench_orchestrator.cli.app import Data, Json, app, console, show
from pqbench_orchestrator.commands import doctor
from pqbench_orchestrator.commands.clean import clean
from pqbench_orchestrator.commands.plugins import KINDS, listing


@app.command("clean")
def clean_command(
    data: Data = Path("data"),
    yes: Annotated[bool, typer.Option("--yes", help="Remove the files instead of only counting them.")] = False,
) -> None:
    """Count what services keep that no run needs: results, caches, and blobs of no run; --yes removes it."""
    found = clean(data, remove=yes)
    done = "removed" if yes else "would be removed (--yes removes it)"
    show(f"{found.files} files of {found.size / 1e6:.1f} MB {done}; {found.kept / 1e6:.1f} MB belong to runs")


@app.command("list")
def list_command(
    kind: Annotated[str, typer.Argument(help=" | ".join(KINDS), show_default=False)], as_json: Json = False
) -> None:
    """List the plug-ins of a kind, and what to install for those that are not available."""
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
    """Show versions, devices, free memory and disk, and which backends are available."""
    facts = doctor.examine(data)
    if as_json:
        print(json.dumps(facts))
        return
    view = Table(show_header=False)
    for name, value in facts.items():
        text = "\n".join(f"{key}: {entry}" for key, entry in value.items()) if isinstance(value, dict) else str(value)
        view.add_row(name, escape(text))
    console.print(view)
