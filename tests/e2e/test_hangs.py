"""What never ends, freezes or leaves in the middle: it is named, its cells fail, and the run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from .conftest import COMMAND, ROOT, TINY, Pqbench, newest_run, rows_of

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


NEVER = "could not be checked within 10 s: its model may never end"
BODIES = {
    "sleeps": ("while True: time.sleep(0.01)", NEVER),
    "spins": ("while True: pass", NEVER),
    "exits": ("sys.exit(3)", "SystemExit"),
    "ends": ("import os; os._exit(3)", "the worker crashed (exit code 3)"),
}


@pytest.mark.long
@pytest.mark.alone
def test_models_that_do_not_return(tmp_path: Path, pqbench: Pqbench, write_manifest: Callable[..., Path]) -> None:
    """Users' modules and an ONNX loop without an end are refused; a model beside them runs."""
    for name, (body, _) in BODIES.items():
        (tmp_path / f"{name}.py").write_text(ENDLESS.format(body=body))
    _write_endless_loop(tmp_path / "loop.onnx")
    own = [
        {"model": f"{name}.py:model", "weights": "none", "name": name, "preprocessing": PREPROCESSING}
        for name in BODIES
    ]
    loop = {"model": "loop.onnx", "name": "loop", "preprocessing": PREPROCESSING}
    manifest = write_manifest(tmp_path, trained=True, models=[*own, loop, *TINY["models"]], stall_seconds=10)
    done = pqbench("run", manifest, "--data", tmp_path / "data", "--allow-code", timeout=500)
    expected = {name: ("refused", reason) for name, (_, reason) in BODIES.items()}
    expected |= {"loop": ("refused", "may never end"), "resnet": ("ok", "")}
    rows = rows_of(newest_run(tmp_path / "data"))
    assert {row["Model"] for row in rows} == set(expected), done.err
    for row in rows:
        outcome, reason = expected[row["Model"]]
        assert row["Outcome"] == outcome and reason in row["Reason"], row
    assert done.code == 0


@pytest.mark.long
@pytest.mark.alone
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
@pytest.mark.parametrize("victim", ["compressor", "runtime", "worker"])
def test_a_frozen_process_is_named_and_replaced(
    victim: str, tmp_path: Path, write_manifest: Callable[..., Path]
) -> None:
    slow = TINY["measure"] | {"min_seconds": 4.0, "max_seconds": 4.0}
    recipes = [{"name": "baseline"}, {"name": "more", "steps": [{"prune": {"method": "l1-global", "amount": 0.1}}]}]
    kind = "compress" if victim == "compressor" else "measure"
    models = [{"model": "digits/resnet", "config": {"epochs": 5}}] if kind == "compress" else TINY["models"]
    manifest = write_manifest(tmp_path, trained=True, measure=slow, recipes=recipes, models=models)
    with (tmp_path / "out").open("w") as log:
        process = subprocess.Popen(
            [*COMMAND, "run", str(manifest), "--data", str(tmp_path / "data")], stdout=log, stderr=log, cwd=ROOT
        )
    with stopped(process, victim, tmp_path / "data", kind):
        assert process.wait(timeout=300) == 1, (tmp_path / "out").read_text()
    rows = rows_of(newest_run(tmp_path / "data"))
    assert any("no sign of life" in row["Reason"] for row in rows), rows
    if kind == "measure":
        assert {row["Outcome"] for row in rows} == {"failed", "ok"}, "the other cell was measured by a new one"


@contextmanager
def stopped(process: subprocess.Popen[bytes], victim: str, data: Path, kind: str) -> Iterator[None]:
    """Stop a process of a run while a step of this kind works."""
    from .test_kills import last_started, pid_of

    deadline = time.monotonic() + 120
    while last_started(data) != kind:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    pid = None
    while pid is None:  # until its worker has started; measuring begins when other runs let go of the machine
        time.sleep(1.0)
        assert process.poll() is None and time.monotonic() < deadline
        pid = pid_of(psutil.Process(process.pid).children(recursive=True), victim)
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
