"""Commands about this machine: clean, list, doctor, certificates, worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from pqbench_orchestrator.cli.app import Data, Json, app, console, show
from pqbench_orchestrator.commands import doctor
from pqbench_orchestrator.commands.clean import clean
from pqbench_orchestrator.commands.plugins import KINDS, listing
from pqbench_wire.errors import InvalidInput


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
    kind: Annotated[str, typer.Argument(help=" | ".join(KINDS), show_default=False)],
    words: Annotated[list[str] | None, typer.Argument(help="Only those whose name or summary has these words.")] = None,
    as_json: Json = False,
) -> None:
    """List the plug-ins of a kind, and what to install for those that are not available."""
    found = [one for one in listing(kind) if _has(one, words or [])]
    if not found:
        raise InvalidInput(f"none of the {kind} has {' and '.join(words or [])} in its name or summary")
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


def _has(entry: dict[str, Any], words: list[str]) -> bool:
    text = f"{entry['name']} {entry['summary']}".lower()
    return all(word.lower() in text for word in words)


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


@app.command("certificates")
def certificates_command(
    folder: Annotated[Path, typer.Argument(help="Folder for the files.", show_default=False)],
    hosts: Annotated[
        list[str],
        typer.Argument(
            help="Names or addresses at which services are reached; several of one service joined by commas.",
            show_default=False,
        ),
    ],
    days: Annotated[int, typer.Option(min=1, max=825, help="For how long certificates are valid.")] = 90,
) -> None:
    """Make or renew certificates for mutual TLS: of services at HOSTS, of clients, and their authority."""
    from pqbench_orchestrator.commands import certificates  # its library takes a tenth of a second to import

    written = certificates.make(folder, hosts, days)
    show("\n".join(f"{path}" for path in written))
    show(
        f"service: --tls-certificate {folder}/HOST.pem --tls-key {folder}/HOST-key.pem "
        f"--tls-client-ca {folder}/ca.pem, or where HOST is the machine's own name: --certificates {folder}\n"
        f"inventory: endpoint: {{address: HOST:PORT, certificates: {folder}}}\n"
        f"keep {folder}/ca-key.pem to yourself; the same command renews within {days} days, without a restart"
    )


@app.command("worker")
def worker_command(
    join: Annotated[str, typer.Option(help="Address of the cluster's head.", metavar="HOST:PORT")],
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="Class of this machine's device, as in the inventory's `devices` (repeatable).", metavar="CLASS"
        ),
    ] = None,
    data: Annotated[Path, typer.Option(help="This machine's own folder of blobs and caches.")] = Path("data"),
) -> None:
    """Let a Ray cluster run shards of experiments on this machine, one at a time (pqbench run --on), until it ends."""
    from pqbench_orchestrator.commands.on_ray import join as join_cluster

    join_cluster(join, device or [], data)
