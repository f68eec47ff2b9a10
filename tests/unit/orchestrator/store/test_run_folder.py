"""A run's folder: made, found again, held alone, and read where it is damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pqbench_orchestrator.config.load import load_manifest
from pqbench_orchestrator.config.shard import WHOLE, Shard
from pqbench_orchestrator.store.ledger import FILE, Ledger
from pqbench_orchestrator.store.run_folder import (
    ENVIRONMENT,
    LATENCIES,
    LOCK,
    MANIFEST,
    SHARD,
    STUDY,
    TRIALS,
    RunFolder,
    find_run,
    folder_to_continue,
    new_folder,
    runs_in,
)
from pqbench_wire.errors import InvalidInput

TEXT = """
name: my run
models: [{model: digits/resnet}]
datasets: [{dataset: digits}]
recipes: [{name: baseline}]
targets: [{name: t, backend: onnxruntime}]
"""
MEASURED = """
  {steps: [{prune: {method: removal, target: latency, latencies: measured, amount: 0.2}}, {quantize: int8}]}"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "m.yaml"
    path.write_text(TEXT)
    return path


def made(tmp_path: Path, manifest: Path, search: bool = False) -> RunFolder:
    return new_folder(tmp_path / "data", manifest, load_manifest(manifest), search)


def test_a_new_run_has_a_name_of_its_own_and_the_manifest(tmp_path: Path, manifest: Path) -> None:
    first, second = made(tmp_path, manifest), made(tmp_path, manifest)
    assert first.path != second.path and first.name.startswith("my-run-") and first.data == tmp_path / "data"
    assert first.manifest() == load_manifest(manifest) and not first.is_search and not first.has_begun


def test_the_newest_run_of_a_manifest_is_continued(tmp_path: Path, manifest: Path) -> None:
    data = tmp_path / "data"
    first, second = made(tmp_path, manifest), made(tmp_path, manifest)
    os.utime(first / MANIFEST, (2e9, 2e9))
    assert folder_to_continue(data, manifest) == first and folder_to_continue(data, second.path) == second
    manifest.write_text(TEXT + "seed: 3\n")
    with pytest.raises(InvalidInput, match="no run of this manifest in .*; leave out --continue"):
        folder_to_continue(data, manifest)


def begun(run: RunFolder, started: float) -> RunFolder:
    """A run whose first step has begun, at a time in seconds since the epoch."""
    run.ledger_to_write().close()
    os.utime(run / MANIFEST, (started, started))
    return run


def test_a_run_is_found_by_folder_name_beginning_and_as_the_latest(tmp_path: Path, manifest: Path) -> None:
    data = tmp_path / "data"
    newer, older = begun(made(tmp_path, manifest), 2e9), begun(made(tmp_path, manifest), 1e9)
    other = begun(made(tmp_path, manifest, search=True), 1.5e9)
    os.utime(older.path)  # somebody looked at it
    assert find_run("latest", data) == newer
    assert find_run(str(older), tmp_path / "elsewhere") == older and find_run(newer.name, data) == newer
    assert find_run("search-", data) == other
    for name in ("", "2 runs"):
        with pytest.raises(InvalidInput):
            find_run(name, data)
    with pytest.raises(InvalidInput, match=r"2 runs begin with 'my-run': my-run-.*, my-run-"):
        find_run("my-run", data)
    with pytest.raises(InvalidInput, match=r"there is no folder 'my-ran-2' and no run of that name in .*experiments"):
        find_run("my-ran-2", data)
    with pytest.raises(InvalidInput, match="it has 0 runs"):
        find_run("latest", tmp_path / "empty")


def test_runs_and_searches_are_not_mixed_up(tmp_path: Path, manifest: Path) -> None:
    search = made(tmp_path, manifest, search=True)
    assert search.is_search and (search / STUDY).is_file() and search.name.startswith("search-")
    with pytest.raises(InvalidInput, match=f"is a search: pqbench search --continue {search}"):
        folder_to_continue(tmp_path / "data", search.path)
    assert folder_to_continue(tmp_path / "data", manifest, search=True) == search


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=f"not a run: it has no {MANIFEST}"):
        folder_to_continue(tmp_path, tmp_path)
    with pytest.raises(InvalidInput, match="not a run: it has no ledger.sqlite"):
        RunFolder(tmp_path).ledger()


def test_a_run_is_held_by_one_process(tmp_path: Path, manifest: Path) -> None:
    run = made(tmp_path, manifest)
    assert not run.is_running
    with run.held():
        assert run.is_running and RunFolder(run.path).is_running
        with pytest.raises(InvalidInput, match="is being executed by another process"), run.held():
            pass
    (run / LOCK).write_text("999999999-0")
    assert not run.is_running, "the process that the lock names has ended"


def test_a_continued_run_keeps_its_start(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    first = run.write_environment({"started": "1", "targets": {}})
    assert run.has_begun and "continued" not in first
    again = run.write_environment({"started": "2", "targets": {}})
    assert (again["started"], again["continued"]) == ("1", "2") and run.environment() == again


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"started": 1}', "\xff", '{"started": "x", "targets": []}', '{"started": "x", "targets": {"a": 1}}',
     '{"started": "x", "targets": {"a": {"versions": 1}}}'],
)  # fmt: skip
def test_a_damaged_environment_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / ENVIRONMENT).write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidInput, match=f"{ENVIRONMENT} is missing or damaged: .*remove it"):
        RunFolder(tmp_path).environment()


def test_a_ledger_that_lost_everything_is_not_begun_anew(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.ledger_to_write().close()
    (run / ENVIRONMENT).write_text(json.dumps({"started": "x", "targets": {}}))
    with pytest.raises(InvalidInput, match="is empty, but the run had begun: restore it"):
        run.ledger_to_write()
    with Ledger(run / FILE) as ledger:
        ledger.begin("m", 3)
    with run.ledger_to_write() as ledger, run.ledger() as reading:
        assert ledger.planned_steps == reading.planned_steps == 3


def test_trials_of_a_search_are_read_and_damage_is_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.trials() == []
    (run / TRIALS).write_text("Recipe,Feasible\na,True\n")
    assert run.trials() == [{"Recipe": "a", "Feasible": "True"}]
    (run / TRIALS).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput, match=f"{TRIALS} is damaged: .*--continue"):
        run.trials()


def test_the_runs_of_a_data_folder_are_those_with_a_ledger(tmp_path: Path, manifest: Path) -> None:
    run = made(tmp_path, manifest)
    assert runs_in(tmp_path / "data") == []
    run.ledger_to_write().close()
    assert runs_in(tmp_path / "data") == [run]


def test_a_build_is_not_continued_as_a_run_of_its_manifest(tmp_path: Path, manifest: Path) -> None:
    first, data = made(tmp_path, manifest), tmp_path / "data"
    built = new_folder(data, manifest, load_manifest(manifest), build=True)
    assert built.is_build and not first.is_build and built.name.startswith("build-")
    assert folder_to_continue(data, manifest) == first and folder_to_continue(data, built.path) == built


def test_a_shard_is_continued_as_itself(tmp_path: Path, manifest: Path) -> None:
    data, shard, other = tmp_path / "data", Shard(index=1, count=2), Shard(index=2, count=2)
    whole = made(tmp_path, manifest)
    part = new_folder(data, manifest, load_manifest(manifest), shard=shard)
    assert part.name.endswith("-1of2") and (part.shard, whole.shard) == (shard, WHOLE)
    assert folder_to_continue(data, manifest) == whole and folder_to_continue(data, manifest, shard=shard) == part
    assert folder_to_continue(data, part.path) == folder_to_continue(data, part.path, shard=shard) == part
    with pytest.raises(InvalidInput, match="no run of this manifest as shard 2/2"):
        folder_to_continue(data, manifest, shard=other)
    with pytest.raises(InvalidInput, match="is shard 1/2, not 2/2: leave out --shard"):
        folder_to_continue(data, part.path, shard=other)
    (part / SHARD).write_text("half\n")
    with pytest.raises(InvalidInput, match=f"{part / SHARD} is damaged: a shard is written as 3/16"):
        folder_to_continue(data, part.path, shard=shard)


def test_measured_times_of_layers_are_put_into_the_manifest(tmp_path: Path, manifest: Path) -> None:
    manifest.write_text(TEXT.replace("{name: baseline}", MEASURED))
    folder = made(tmp_path, manifest, search=True)
    assert folder.manifest().recipes[0].steps[0].config["latencies"] == "measured"
    folder.write_latencies({"quantize int8-static": {"latencies": {"stem": 3.0}, "cells": 24, "error": 0.02}})
    step, quantize = folder.manifest().recipes[0].steps
    assert step.config["latencies"] == {"stem": 3.0} and quantize.config == {}
    assert folder_to_continue(tmp_path / "data", manifest, search=True) == folder, "the manifest is still the same"


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"quantize int8-static": 3}'])
def test_damaged_times_of_layers_are_named(text: str, tmp_path: Path, manifest: Path) -> None:
    manifest.write_text(TEXT.replace("{name: baseline}", MEASURED))
    folder = made(tmp_path, manifest, search=True)
    (folder / LATENCIES).write_text(text)
    with pytest.raises(InvalidInput, match=f"{LATENCIES} is damaged: .*remove it, and pqbench search --continue"):
        folder.manifest()
