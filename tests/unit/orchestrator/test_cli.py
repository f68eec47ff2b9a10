"""What the command line says and returns, without services."""

from __future__ import annotations

import errno
import io
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import typer
from rich.console import Console
from typer.main import get_command
from typer.testing import CliRunner

from pqbench_orchestrator.cli import app
from pqbench_orchestrator.cli.app import ORDER, Commands, points_of
from pqbench_orchestrator.cli.decisions import gate
from pqbench_orchestrator.cli.experiments import command_to_go_on, settings_of
from pqbench_orchestrator.decide import compare, sides
from pqbench_orchestrator.decide.gate import judge
from pqbench_orchestrator.execution.session import Settings
from pqbench_orchestrator.output.comparison import COLUMNS, counts, junit, texts
from pqbench_orchestrator.output.terminal import LiveDisplay
from pqbench_orchestrator.statistics import SAME, WORSE, Ratio
from pqbench_orchestrator.steps.profile import Profile
from pqbench_orchestrator.steps.step import Step
from pqbench_orchestrator.store.ledger import StepRecord
from pqbench_orchestrator.store.run_folder import RunFolder
from pqbench_wire.errors import InvalidInput

from .cells import cell

IDENTITY = sides.Identity("m", "d", "r", 1, 1, None)
SPEC = Profile(target="t", seconds=1.0, run_name="r")


def test_a_pipe_that_broke_elsewhere_is_told() -> None:
    """Only where nobody reads the output any more does a command end without a word."""
    commands = typer.Typer(cls=Commands)

    @commands.command()
    def run() -> None:
        raise BrokenPipeError(32, "Broken pipe")

    @commands.command()
    def report() -> None: ...

    done = CliRunner().invoke(commands, ["run"])
    assert done.exit_code == 2 and done.stderr == "error: [Errno 32] Broken pipe\n"


def test_a_full_disk_is_told_with_what_to_do() -> None:
    commands = typer.Typer(cls=Commands)

    @commands.command()
    def run() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "data/blobs/x")

    @commands.command()
    def report() -> None: ...

    done = CliRunner().invoke(commands, ["run"])
    assert done.exit_code == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "No space left on device: 'data/blobs/x'; free space on the disks of the data folder" in done.stderr


@pytest.mark.parametrize(("text", "points"), [("1%", 1.0), ("1", 1.0), ("0.5%", 0.5), ("0", 0.0)])
def test_a_percentage_is_in_points_with_and_without_its_sign(text: str, points: float) -> None:
    assert points_of(text, "--max-drop") == points


@pytest.mark.parametrize("text", ["much", "-1%", "101%", "nan", "%"])
def test_what_is_no_percentage_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=f"--max-drop: '{text}' is"):
        points_of(text, "--max-drop")


def test_a_gate_does_not_pass_where_nothing_was_judged(capsys: pytest.CaptureFixture[str]) -> None:
    refused = compare.Change(identity=IDENTITY, verdict=compare.NOT_COMPARABLE, notes=["scenario: a and b"])
    unstable = compare.Change(
        identity=IDENTITY, verdict=WORSE, ratio=Ratio(value=2.0, low=1.9, high=2.1), is_unstable=True
    )
    absolute = compare.Change(
        identity=IDENTITY, verdict=WORSE, ratio=Ratio(value=2.0, low=1.9, high=2.1), is_absolute=True
    )
    for one in (refused, unstable, absolute):
        with pytest.raises(InvalidInput, match="no cell could be judged"):
            gate([one], 0.03, 0.05, absolute=False)
    assert gate([absolute], 0.03, 0.05, absolute=True).worse == [absolute]
    capsys.readouterr()
    timed, failed = cell({"Inference Time (ms)": 1.0}), cell({"Outcome": "failed"})
    lost = compare.Change(identity=IDENTITY, verdict=compare.NOT_COMPARABLE, old=timed, new=failed, is_lost=True)
    same = compare.Change(identity=IDENTITY, verdict=SAME, is_apart=True)
    assert not gate([same], 0.1, 0.05, absolute=False).worse
    assert capsys.readouterr().err == "0 of 1 judged cells got worse\n"
    assert gate([same, lost, unstable], 0.03, 0.05, absolute=False).worse == [lost]
    said = capsys.readouterr().err
    assert "1 of 2 judged cells got worse, 1 of them no longer run\n  m, d, r, batch 1\n" in said
    assert "1 not judged, as their times are unstable:\n  m, d, r, batch 1" in said and "--tolerance" in said
    assert "could not be compared" not in said, "what does not run any more is counted once"


def test_junit_has_a_case_for_every_cell() -> None:
    worse = compare.Change(
        identity=IDENTITY, verdict=WORSE, ratio=Ratio(value=2.0, low=1.9, high=2.1), old_ms=1.0, new_ms=2.0
    )
    others = [
        compare.Change(identity=IDENTITY._replace(recipe=name), verdict=SAME, is_unstable=name == "shaky")
        for name in ("fine", "shaky")
    ]
    found = ElementTree.fromstring(junit(judge([worse, *others], 0.03, absolute=False), "old", "new"))
    assert (found.get("tests"), found.get("failures"), found.get("skipped")) == ("3", "1", "1")
    failure = found.find("testcase/failure")
    assert failure is not None and "Old: 1.000 ms; New: 2.000 ms; Change: +100.0% (+90.0% to +110.0%)" in failure.get(
        "message", ""
    )
    assert [case.get("name") for case in found if case.find("skipped") is not None] == ["m, d, shaky, batch 1"]


def test_the_change_is_computed_from_the_two_numbers_beside_it() -> None:
    change = compare.Change(
        identity=IDENTITY, verdict=SAME, old_ms=2.0, new_ms=3.0, old_speedup=2.0, new_speedup=1.6,
        ratio=Ratio(value=1.25, low=1.2, high=1.3),
    )  # fmt: skip
    shown = dict(zip(COLUMNS, texts(change), strict=True))
    assert shown["Old"] == "50.0% of its baseline's (2.000 ms)" and shown["New"] == "62.5% of its baseline's (3.000 ms)"
    assert shown["Change"] == "+25.0% (+20.0% to +30.0%)"
    assert counts([change]) == "1 cells: 1 same"


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


def test_a_reason_is_printed_once_and_counted() -> None:
    written = io.StringIO()
    record = StepRecord(key="k", kind="build", label="l", place="p", outcome="failed", reason="no space", seconds=0.0)
    with LiveDisplay(Console(file=written, width=200)) as live:
        for label in "abc":
            live.finished(Step(key=label, label=label, place="target t", spec=SPEC, needs={}, stage=(0,)), record)
    lines = written.getvalue().splitlines()
    assert lines == ["failed profile a: no space", "2 more failed for the same reason: no space"]


def test_help_lists_every_command() -> None:
    group: Any = get_command(app)
    assert sorted(group.commands) == sorted(ORDER)
    assert CliRunner().invoke(app, ["--help"]).exit_code == 0
