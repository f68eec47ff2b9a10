"""What the command line says and returns, without services."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.main import get_command
from typer.testing import CliRunner

from pqbench_orchestrator.cli import app
from pqbench_orchestrator.cli.app import ORDER, points_of
from pqbench_orchestrator.cli.decisions import gate
from pqbench_orchestrator.cli.experiments import command_to_go_on, settings_of
from pqbench_orchestrator.decide import compare, sides
from pqbench_orchestrator.execution.session import Settings
from pqbench_orchestrator.output.terminal import LiveDisplay
from pqbench_orchestrator.statistics import SAME
from pqbench_orchestrator.steps.profile import Profile
from pqbench_orchestrator.steps.step import Step
from pqbench_orchestrator.store.ledger import StepRecord
from pqbench_orchestrator.store.run_folder import RunFolder
from pqbench_wire.errors import InvalidInput

from .cells import cell

IDENTITY = sides.Identity("m", "d", "r", 1, 1, None)
SPEC = Profile(target="t", seconds=1.0, run_name="r")


@pytest.mark.parametrize(("text", "points"), [("1%", 1.0), ("1", 1.0), ("0.5%", 0.5), ("0", 0.0)])
def test_a_percentage_is_in_points_with_and_without_its_sign(text: str, points: float) -> None:
    assert points_of(text, "--max-drop") == points


@pytest.mark.parametrize("text", ["much", "-1%", "101%", "nan", "%"])
def test_what_is_no_percentage_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=f"--max-drop: '{text}' is"):
        points_of(text, "--max-drop")


def test_a_gate_does_not_pass_where_nothing_was_compared(capsys: pytest.CaptureFixture[str]) -> None:
    refused = compare.Change(identity=IDENTITY, verdict=compare.NOT_COMPARABLE, reason="scenario: a and b")
    with pytest.raises(InvalidInput, match="no cell could be compared"):
        gate([refused], 0.03, 0.05)
    timed, failed = cell({"Inference Time (ms)": 1.0}), cell({"Outcome": "failed"})
    lost = compare.Change(identity=IDENTITY, verdict=compare.NOT_COMPARABLE, old=timed, new=failed, is_lost=True)
    same = compare.Change(identity=IDENTITY, verdict=SAME, is_apart=True)
    assert gate([same], 0.1, 0.05) == 0 and capsys.readouterr().err == ""
    assert gate([same, lost], 0.03, 0.05) == 1
    said = capsys.readouterr().err
    assert "--tolerance" in said and "1 of 2 cells got worse, 1 of them no longer run" in said
    assert "could not be compared" not in said, "what does not run any more is counted once"


def test_a_run_is_continued_where_it_lies(tmp_path: Path) -> None:
    folder = tmp_path / "experiments/x"
    folder.mkdir(parents=True)
    live = LiveDisplay(Console(file=io.StringIO()))
    by_folder = settings_of(live, folder, Path("data"), None, False, again=True)
    assert (by_folder.data, by_folder.manifest, by_folder.is_new) == (tmp_path, None, False)
    manifest = tmp_path / "m.yaml"
    by_manifest = settings_of(live, manifest, Path("data"), None, False, again=True)
    assert (by_manifest.data, by_manifest.manifest) == (Path("data"), manifest)
    settings = Settings(data=tmp_path, inventory=Path("i.yaml"), allow_code=True)
    assert (
        command_to_go_on(RunFolder(Path("x")), settings) == "pqbench run --continue x --inventory i.yaml --allow-code"
    )


def test_what_looks_like_markup_in_a_reason_is_shown_as_it_is() -> None:
    written = io.StringIO()
    live = LiveDisplay(Console(file=written, width=200))
    step = Step(key="k", label="m[/x]", place="target t", spec=SPEC, needs={}, stage=(0,))
    live.finished(
        step,
        StepRecord(
            key="k", kind="profile", label="l", place="p", outcome="failed", reason="bad [/red] [shape]", seconds=0.0
        ),
    )
    assert "failed profile m[/x]: bad [/red] [shape]" in written.getvalue()


def test_help_lists_every_command() -> None:
    group: Any = get_command(app)
    assert sorted(group.commands) == sorted(ORDER)
    assert CliRunner().invoke(app, ["--help"]).exit_code == 0
