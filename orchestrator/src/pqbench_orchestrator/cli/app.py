"""The `pqbench` command: the application object, shared arguments and options, printing and parsing."""

from __future__ import annotations

import errno
import os
import select
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from pqbench_orchestrator.store.run_folder import RunFolder, find_run
from pqbench_wire.errors import InvalidInput, PqbenchError
from pqbench_wire.process import versions_of

STDOUT = 1  # the file descriptor
OK, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

ORDER = ("init", "run", "build", "merge", "search", "plan", "sensitivity", "report", "export", "verify",
         "compare", "recommend", "why", "check", "serve", "clean", "list", "doctor", "schema", "certificates",
         "worker")  # fmt: skip
WIDE = 160  # width in characters where the output is not a terminal but a file, a pipe or a log

console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def show(text: str) -> None:
    """Print a text unchanged, because names and reasons may contain what Rich takes for markup."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def note(text: str) -> None:
    """Print a note on standard error."""
    errors.print(text, markup=False)


class Commands(TyperGroup):
    """The group of all commands: a PqbenchError or OSError becomes one line and exit code 2, an interrupt code 130."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands' names in the order in which --help shows them."""
        return sorted(super().list_commands(ctx), key=ORDER.index)

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command, with errors turned into exit codes."""
        try:
            return super().invoke(ctx)
        except (PqbenchError, OSError) as error:
            if isinstance(error, BrokenPipeError) and _reader_is_gone():
                raise  # Click ends quietly
            errors.print(f"error: {error}{_advice(error)}", markup=False)
            raise typer.Exit(BAD_INPUT) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


def _advice(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"; free space on the disks of the data folder and of {tempfile.gettempdir()}, then use --continue"
    return ""


def _reader_is_gone() -> bool:
    """Whether nobody reads standard output any more, as in `pqbench … | head`."""
    poll = select.poll()
    poll.register(STDOUT, 0)  # errors are reported without being asked for
    return bool(poll.poll(0))


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)


def _version(wanted: bool) -> None:
    if wanted:
        found = versions_of("pqbench-orchestrator", "pqbench-compressor", "pqbench-runtime", "pqbench-wire")
        print(", ".join(f"{name} {version}" for name, version in found.items()))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Finds out which compression of a vision model to ship on which runtime, and what it costs in accuracy."""


ManifestPath = Annotated[Path, typer.Argument(help="Manifest (YAML).", show_default=False)]
Data = Annotated[Path, typer.Option(help="Folder of blobs, datasets, experiments.")]
InventoryPath = Annotated[
    Path | None,
    typer.Option(
        "--inventory", help="Where services run (YAML); default: the manifest's containers, else local processes."
    ),
]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Run the Python files of the manifest: models, steps, datasets.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
RUN = "A run: its folder, its name, a unique beginning of it, or `latest`."
RunName = Annotated[str, typer.Argument(help=RUN, metavar="RUN", show_default=False)]
CellName = Annotated[
    str,
    typer.Argument(
        help="A cell: its key from the column Cell, or RECIPE@TARGET where that is unique.",
        metavar="CELL",
        show_default=False,
    ),
]
RunData = Annotated[Path | None, typer.Option(help="Data folder; default: that of the run, `data` for a run's name.")]


def run_of(name: str, data: Path | None) -> RunFolder:
    """The run that RUN names. Raises InvalidInput."""
    return find_run(name, data or Path("data"))


def points_of(text: str, option: str) -> float:
    """The number of a percentage such as "1%" or "1". Raises InvalidInput, which names `option`, beyond 0 to 100."""
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        raise InvalidInput(f"{option}: {text!r} is not a percentage; write it as 3%") from None
    if not 0 <= value <= 100:
        raise InvalidInput(f"{option}: {text!r} is out of range: 0% to 100%")
    return value


def seconds_of(text: str, option: str) -> float:
    """The seconds of a time such as "5ms", "250us" or "0.005s". Raises InvalidInput, which names `option`."""
    units = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
    unit = next((name for name in units if text.endswith(name)), "")
    try:
        value = float(text.removesuffix(unit)) * units[unit]
    except (KeyError, ValueError):
        raise InvalidInput(f"{option}: {text!r} is not a time; write it as 5ms, 250us or 0.005s") from None
    if value <= 0:
        raise InvalidInput(f"{option}: {text!r} must be over 0")
    return value
