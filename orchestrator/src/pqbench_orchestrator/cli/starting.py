"""Commands for a first manifest: init, schema."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pqbench_orchestrator.cli.app import app, errors, points_of, show
from pqbench_orchestrator.commands import init
from pqbench_orchestrator.commands.plugins import capabilities
from pqbench_orchestrator.commands.schema import KINDS, markdown, schema
from pqbench_wire.catalog import unknown
from pqbench_wire.errors import InvalidInput

GOAL = f"What matters most ({', '.join(init.GOALS)})"


@app.command("init")
def init_command(
    out: Annotated[Path, typer.Option(help="The manifest to write.")] = Path("pqbench.yaml"),
    config: Annotated[
        Path | None, typer.Option("--from", help="Translate this config.ini of the thesis tool instead of asking.")
    ] = None,
    model: Annotated[str, typer.Option(help="A name (pqbench list models), file.py:function, or file.onnx.")] = "",
    weights: Annotated[str, typer.Option(help="File of its weights; default: the model's own.")] = "",
    dataset: Annotated[
        str, typer.Option(help="A name (pqbench list datasets), or a folder with one sub-folder for each class.")
    ] = "",
    target: Annotated[
        list[str] | None, typer.Option(help="A backend (repeatable); default: those available on this machine.")
    ] = None,
    goal: Annotated[str, typer.Option(help=f"{GOAL}.")] = "",
    max_drop: Annotated[str, typer.Option(help="Largest loss of accuracy in percentage points.")] = "1%",
    batch_size: Annotated[list[int] | None, typer.Option(min=1, help="Repeatable; default: 1 and 8.")] = None,
    image_size: Annotated[int, typer.Option(min=1, help="Height and width of a file's model's input.")] = 224,
) -> None:
    """Write a commented manifest: what is not given as an option is asked for, in a terminal."""
    if config is not None:
        init.write(init.from_ini(config), out)
    else:
        choices = init.Choices(
            model=model or _asked("--model", "Model (name, file.py:function or file.onnx)", "digits/resnet"),
            dataset=dataset or _asked("--dataset", "Dataset (name, or a folder of images by class)", "digits"),
            goal=goal or (_asked("--goal", GOAL, init.GOALS[0]) if sys.stdin.isatty() else init.GOALS[0]),
            weights=weights,
            targets=target or (),
            max_drop=points_of(max_drop, "--max-drop"),
            batch_sizes=batch_size or (1, 8),
            image_size=image_size,
        )
        init.check(choices)
        init.write(init.text_of(choices if target else replace(choices, targets=_here()), out.parent), out)
    more = " --allow-code" if ".py:" in out.read_text(encoding="utf-8") else ""
    show(f"{out}: written\npqbench plan {out}{more}    # what it would do\npqbench run {out}{more}")


@app.command("schema")
def schema_command(
    kind: Annotated[str, typer.Argument(help=" | ".join(KINDS), show_default=False)],
    as_markdown: Annotated[bool, typer.Option("--markdown", help="The columns of results as a table.")] = False,
) -> None:
    """Print the JSON schema of a manifest, for editors, or of the rows of results."""
    if kind not in KINDS:
        raise InvalidInput(unknown("schema", kind, KINDS))
    if as_markdown and kind != "results":
        raise InvalidInput("--markdown is for the columns of results")
    print(markdown() if as_markdown else json.dumps(schema(kind), indent=1), end="" if as_markdown else "\n")


def _asked(option: str, question: str, default: str) -> str:
    """The answer to a question; raises InvalidInput, which names the option, where nobody can be asked."""
    if not sys.stdin.isatty():
        raise InvalidInput(f"{option} is missing, and there is no terminal to ask in")
    return str(typer.prompt(question, default=default, err=True))


def _here() -> list[str]:
    """The backends that are available on this machine; CPUs and GPUs alike."""
    found = [one.plugin.name for one in capabilities() if one.plugin.available]
    if not found:
        raise InvalidInput("no backend is available here: pqbench doctor says what to install; or give --target")
    errors.print(f"targets: {', '.join(found)}", markup=False)
    return found
