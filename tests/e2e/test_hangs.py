"""What never ends, freezes or leaves in the middle: it is named, its cells fail, and the run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from .conftest import COMMAND, ROOT, TINY, Pqbench, newest_run, rows_of

pytestmark = pytest.mark.alone
ENDLESS = """
import sys, time, torch
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(256, 10)
    def forward(self, x):
        {body}
        return self.layer(x.flatten(1))
def model():
    return Model()
"""
PREPROCESSING = {"height": 16, "width": 16, "channels": 1, "mean": [0.5], "std": [0.5]}


def with_model(folder: Path, body: str) -> list[dict[str, Any]]:
    """A user's module with a line in its forward, beside one that works."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "own.py").write_text(ENDLESS.format(body=body))
    return [
        {"model": "own.py:model", "weights": "none", "name": "own", "preprocessing": PREPROCESSING},
        {"model": "digits/resnet", "config": {"epochs": 1}},
    ]


@pytest.mark.long
@pytest.mark.parametrize(
    ("body", "outcome", "reason"),
    [
        ("while True: time.sleep(0.01)", "refused", "could not be checked within 10 s: its model may never end"),
        ("while True: pass", "refused", "could not be checked within 10 s: its model may never end"),
        ("sys.exit(3)", "refused", "SystemExit"),
        ("import os; os._exit(3)", "refused", "the worker crashed (exit code 3)"),
    ],
)
def test_a_users_model_that_does_not_return(
    body: str, outcome: str, reason: str, tmp_path: Path, pqbench: Pqbench, write_manifest: Callable[..., Path]
) -> None:
    manifest = write_manifest(tmp_path, models=with_model(tmp_path, body), stall_seconds=10)
    done = pqbench("run", manifest, "--data", tmp_path / "data", "--allow-code", timeout=240)
    rows = rows_of(newest_run(tmp_path / "data"))
    own = [row for row in rows if row["Model"] == "own"]
    assert {row["Outcome"] for row in own} == {outcome}, done.err
    assert all(reason in row["Reason"] for row in own), own[0]["Reason"]
    assert {row["Outcome"] for row in rows if row["Model"] != "own"} == {"ok"} and done.code == 0


@pytest.mark.long
def test_a_users_pruner_that_never_ends(tmp_path: Path, pqbench: Pqbench, write_manifest: Callable[..., Path]) -> None:
    """Its cell fails by the bound on progress; the compressor's worker is replaced, and the run goes on."""
    (tmp_path / "own.py").write_text(
        "class Endless:\n    def prune(self, module, context):\n        while True: pass\n"
    )
    recipes = [{"name": "endless", "steps": [{"prune": {"method": "own.py:Endless"}}]}, *TINY["recipes"]]
    manifest = write_manifest(
        tmp_path, recipes=recipes, stall_seconds=30
    )  # its new worker imports PyTorch: ten seconds on a slow machine
    done = pqbench("run", manifest, "--data", tmp_path / "data", "--allow-code", timeout=240)
    rows = {row["Recipe"]: row for row in rows_of(newest_run(tmp_path / "data"))}
    assert rows["endless"]["Outcome"] == "failed" and "no progress for 30 s" in rows["endless"]["Reason"]
    assert rows["int8"]["Outcome"] == rows["baseline"]["Outcome"] == "ok" and done.code == 1


@pytest.mark.long
def test_an_endless_onnx_loop(tmp_path: Path, pqbench: Pqbench, write_manifest: Callable[..., Path]) -> None:
    _write_endless_loop(tmp_path / "endless.onnx")
    models = [{"model": "endless.onnx", "preprocessing": PREPROCESSING}, *TINY["models"]]
    manifest = write_manifest(tmp_path, models=models, stall_seconds=10)
    done = pqbench("run", manifest, "--data", tmp_path / "data", timeout=240)
    rows = rows_of(newest_run(tmp_path / "data"))
    assert all("may never end" in row["Reason"] for row in rows if row["Model"].startswith("endless")), done.err
    assert {row["Outcome"] for row in rows} == {"refused", "ok"}


@pytest.mark.long
@pytest.mark.parametrize("victim", ["pqbench_compressor", "pqbench_runtime", "pqbench_runtime.worker"])
def test_a_frozen_process_is_named_and_replaced(
    victim: str, tmp_path: Path, write_manifest: Callable[..., Path]
) -> None:
    slow = TINY["measure"] | {"min_seconds": 4.0, "max_seconds": 4.0}
    recipes = [{"name": "baseline"}, {"name": "more", "steps": [{"prune": {"method": "l1-global", "amount": 0.1}}]}]
    models = [{"model": "digits/resnet", "config": {"epochs": 5}}]
    manifest = write_manifest(tmp_path, measure=slow, recipes=recipes, models=models)
    with (tmp_path / "out").open("w") as log:
        process = subprocess.Popen(
            [*COMMAND, "run", str(manifest), "--data", str(tmp_path / "data")], stdout=log, stderr=log, cwd=ROOT
        )
    kind = "compress" if victim == "pqbench_compressor" else "measure"
    with stopped(process, victim, tmp_path / "data", kind):
        assert process.wait(timeout=300) == 1, (tmp_path / "out").read_text()
    rows = rows_of(newest_run(tmp_path / "data"))
    assert any("no sign of life" in row["Reason"] for row in rows), rows
    if kind == "measure":
        assert {row["Outcome"] for row in rows} == {"failed", "ok"}, "the other cell was measured by a new one"


@contextmanager
def stopped(process: subprocess.Popen[bytes], module: str, data: Path, kind: str) -> Iterator[None]:
    """Stop a process of a run while a step of this kind works."""
    from .test_kills import last_started, pid_of

    deadline = time.monotonic() + 120
    while last_started(data) != kind:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    pid = None
    while pid is None:  # until its worker has started
        time.sleep(1.0)
        assert process.poll() is None and time.monotonic() < deadline
        pid = pid_of(psutil.Process(process.pid).children(recursive=True), module, data)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)


def _write_endless_loop(path: Path) -> None:
    """A loop whose condition stays true."""
    true = helper.make_node("Constant", [], ["more"], value=helper.make_tensor("", TensorProto.BOOL, [], [True]))
    same = helper.make_node("Identity", ["before"], ["after"])
    body = helper.make_graph(
        [true, same],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("condition", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("more", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, None),
        ],
    )
    begin = helper.make_node("Constant", [], ["begin"], value=helper.make_tensor("", TensorProto.BOOL, [], [True]))
    loop = helper.make_node("Loop", ["", "begin", "input"], ["looped"], body=body)
    flat = helper.make_node("Flatten", ["looped"], ["output"])
    graph = helper.make_graph(
        [begin, loop, flat],
        "endless",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 1, 16, 16])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", 256])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
