"""From figures to a decision, through real services: recommend, why, compare, check, search."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..conftest import COMMAND, ROOT, TINY, Pqbench, newest_run, rows_of

Write = Callable[..., Path]
PRUNE = {"prune": {"method": "l1-global", "amount": [0.2, 0.4, 0.6, 0.8]}}
MEASURED = [{"steps": [{"prune": {"method": "removal", "target": "latency", "latencies": "measured", "amount": 0.2}}]}]
SPACE = [
    {"name": "baseline"},
    {"name": "int8", "steps": [{"quantize": {"method": "int8-static", "images": 64}}]},
    {"name": "pruned", "steps": [PRUNE]},
    {"name": "pruned int8", "steps": [PRUNE, {"quantize": {"method": "int8-static", "images": 64}}]},
]


def cell_of(run: Path, recipe: str, target: str, batch: int) -> dict[str, str]:
    wanted = (recipe, target, str(batch))
    return next(row for row in rows_of(run) if (row["Recipe"], row["Target"], row["Batch Size"]) == wanted)


def test_recommend_names_a_recipe_its_figures_and_its_command(
    quickstart: Path, pqbench: Pqbench, tmp_path: Path
) -> None:
    done = pqbench("recommend", quickstart, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert [one["group"]["batch_size"] for one in found] == [1, 32]
    for one in found:
        assert one["best"]["speedup"] > 1.5 and one["confirmed"]["speedup"] > 1.5, "measured again when the run ended"
        assert one["chosen_on"] == "held-out training images"
    shown = pqbench("recommend", quickstart, "--batch-size", 32, "--target", "pytorch-cpu", "--no-measure").out
    assert "Ship removal 0.8 on pytorch-cpu" in shown
    command = next(line for line in shown.splitlines() if line.startswith("pqbench export"))
    *_, cell, _, _ = command.split()
    exported = pqbench("export", quickstart, cell, "--out", tmp_path / "bundle")
    assert exported.code == 0 and (tmp_path / "bundle/model_card.md").is_file(), exported.err


def test_recommend_says_what_binds(quickstart: Path, pqbench: Pqbench) -> None:
    done = pqbench("recommend", quickstart, "--p99", "1us", "--batch-size", 1)
    assert done.code == 1 and "binding constraints: p99" in done.out and "The nearest is" in done.out
    for wrong, problem in (
        (["--p99", "5"], "--p99: '5' is not a time; write it as 5ms"),
        (["--max-drop", "much"], "--max-drop: 'much' is not a percentage"),
        (["--minimize", "latnecy"], "minimize: input should be 'latency', 'size' or 'energy'"),
        (["--target", "nobody"], "--target: unknown target 'nobody'; known:"),
    ):
        done = pqbench("recommend", quickstart, *wrong)
        assert done.code == 2 and problem in done.err and "Traceback" not in done.err, done.err


def test_a_choice_that_no_run_confirmed_is_measured_now(quickstart: Path, pqbench: Pqbench) -> None:
    arguments = ("recommend", quickstart, "--batch-size", 1, "--target", "pytorch-cpu", "--minimize", "size", "--json")
    before = json.loads(pqbench(*arguments, "--no-measure").out)[0]
    after = json.loads(pqbench(*arguments).out)[0]
    assert before["confirmed"] is None and after["confirmed"]["median_ms"] > 0
    assert json.loads(pqbench(*arguments, "--no-measure").out)[0]["confirmed"] == after["confirmed"], "once is enough"


def test_runs_and_cells_have_short_names(quickstart: Path, pqbench: Pqbench) -> None:
    data, key = quickstart.parents[1], cell_of(quickstart, "l1-global", "pytorch-cpu", 1)["Cell"]
    whole = pqbench("why", quickstart, key).out
    for run in ("latest", quickstart.name, quickstart.name[:-3]):
        assert pqbench("why", run, key[:8], "--data", data).out == whole
    twice = pqbench("why", "latest", "l1-global@pytorch-cpu", "--data", data)
    assert (
        twice.code == 2 and f"2 cells are called 'l1-global@pytorch-cpu': name one by its key: {key[:8]}" in twice.err
    )
    nothing = pqbench("compare", "latest:openvino", "latest:onnxruntime-cpu", "--data", data)
    assert nothing.code == 2 and "has no target 'openvino', only" in nothing.err
    missing = pqbench("report", "quickstrat", "--data", data)
    assert missing.code == 2 and "no run of that name" in missing.err and "Traceback" not in missing.err


def test_why(quickstart: Path, pqbench: Pqbench) -> None:
    zeros = cell_of(quickstart, "l1-global", "onnxruntime-cpu", 32)
    done = pqbench("why", quickstart, zeros["Cell"])
    assert done.code == 0 and "of its weights are zeros" in " ".join(done.out.split()) and "Conv" in done.out, done.out
    quantized = cell_of(quickstart, "int8", "onnxruntime-cpu", 32)
    found = json.loads(pqbench("why", quickstart, quantized["Cell"], "--json").out)
    assert found["precisions"]["INT8"] > 0.5 and "quantizing, casting and reordering" in found["text"]
    assert quantized["Why"] == found["text"]
    fitted = json.loads(pqbench("why", quickstart, quantized["Cell"], "--latencies", "--json").out)
    done = pqbench("why", quickstart, quantized["Cell"], "--latencies")
    assert yaml.safe_load(done.out) == {"latencies": fitted["latencies"]}
    assert f"fitted to {fitted['cells']} cell" in done.err and fitted["cells"] >= 1
    assert any(name.endswith("conv1") for name in fitted["latencies"]), fitted
    refused = cell_of(quickstart, "int8", "pytorch-cpu", 1)
    done = pqbench("why", quickstart, refused["Cell"])
    assert done.code == 2 and "is refused: pytorch has no route for INT8" in done.err


def test_compare_targets_and_runs(quickstart: Path, pqbench: Pqbench, tmp_path: Path) -> None:
    done = pqbench("compare", f"{quickstart}:onnxruntime-cpu", f"{quickstart}:pytorch-cpu", "--json")
    changes = json.loads(done.out)
    assert done.code == 0 and len(changes) == 12
    int8 = [change for change in changes if "int8" in change["cell"][2]]
    assert {change["verdict"] for change in int8} == {"not comparable"}
    markdown = pqbench("compare", quickstart, quickstart, "--markdown")
    assert markdown.code == 0 and "36 cells: 32 same, 4 not comparable" in markdown.out
    sides = (f"{quickstart}:onnxruntime-cpu", f"{quickstart}:pytorch-cpu", "--anyway")
    changes = json.loads(pqbench("compare", *sides, "--json").out)
    judged = [one for one in changes if one["verdict"] != "not comparable" and not one["is_unstable"]]
    slower = [one for one in judged if one["verdict"] == "worse" and one["ratio"] > 1.03]
    lost = [one for one in changes if one["is_lost"]]
    gate = pqbench("compare", *sides, "--fail-on-regression", "3%", "--junit", tmp_path / "junit.xml")
    assert gate.code == 1 and len(lost) == 4, "PyTorch has no route for INT8"
    worse = f"{len(slower) + 4} of {len(judged) + 4} judged cells got worse, 4 of them no longer run"
    assert worse in gate.err, gate.err
    assert f'failures="{len(slower) + 4}"' in (tmp_path / "junit.xml").read_text()


def test_check_measures_beside_the_makers_tools(quickstart: Path, pqbench: Pqbench) -> None:
    cell = cell_of(quickstart, "baseline", "openvino-cpu", 32)["Cell"]
    done = pqbench("check", quickstart, cell, "--seconds", 1, "--json")
    assert done.code == 0, done.err
    lines = {line["who"]: line for line in json.loads(done.out)}
    assert list(lines) == ["pqbench, in the run", "pqbench, now", "benchmark_app", "pqbench, after them"]
    assert lines["benchmark_app"]["latency"] > 0 and not lines["benchmark_app"]["note"], lines["benchmark_app"]


def space(folder: Path, write: Write) -> Path:
    return write(folder, trained=True, recipes=SPACE, goal={"max_drop": 3.0}, search={"trials": 6, "promoted": 2})


@pytest.mark.long
@pytest.mark.alone
def test_search_finds_a_feasible_recipe_and_goes_on_after_an_interrupt(
    pqbench: Pqbench, write_manifest: Write, tmp_path: Path
) -> None:
    manifest, data = space(tmp_path, write_manifest), tmp_path / "data"
    running = subprocess.Popen(
        [*COMMAND, "search", str(manifest), "--data", str(data)], stderr=subprocess.PIPE, cwd=ROOT
    )
    deadline = time.monotonic() + 120
    while not list(data.glob("experiments/*/trials.csv")) and time.monotonic() < deadline:
        time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    said = running.communicate(timeout=60)[1].decode()
    assert running.returncode == 130 and "pqbench search --continue" in said, said
    folder = newest_run(data)
    tried = trials(folder)
    assert 1 <= len(tried) < 6
    done = pqbench("search", manifest, "--data", data, "--continue", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert Path(found["run"]) == folder and folder.name.startswith("search-")
    finished = trials(folder)
    assert len(finished) == 6 and [row["Recipe"] for row in finished][: len(tried)] == [row["Recipe"] for row in tried]
    assert len({row["Recipe"] for row in finished}) == 6, "nothing is tried twice"
    best = found["recommendations"][0]["best"]
    assert best["recipe"] in {row["Recipe"] for row in finished if row["Feasible"] == "True"}
    assert found["recommendations"][0]["confirmed"]["speedup"] > 1
    assert {cell["recipe"] for cell in found["cells"]} >= {"baseline", best["recipe"]} and len(found["cells"]) == 3
    assert (folder / "report.html").is_file() and "front:" in done.err


@pytest.mark.long
def test_a_search_measures_the_times_of_layers_that_its_recipes_need(
    pqbench: Pqbench, write_manifest: Write, tmp_path: Path
) -> None:
    """Its target's first, by which channels are then removed; `run` refuses them, and a wrong option is seen at once."""
    removal = {"method": "removal", "target": "latency", "latencies": "measured", "amount": [0.2, 0.5], "round_to": 4}
    recipes = [{"steps": [{"prune": removal}, {"quantize": {"method": "int8-static", "images": 64}}]}]
    manifest, data = write_manifest(tmp_path, trained=True, recipes=recipes, goal={"max_drop": 50}), tmp_path / "data"
    refused = pqbench("run", manifest, "--data", data)
    assert refused.code == 2 and "recipes.0" in refused.err and "is for pqbench search" in refused.err, refused.err
    done = pqbench("search", manifest, "--data", data, "--json")
    assert done.code == 0 and "layers' times (quantize int8-static" in done.err, done.err
    folder = newest_run(data)
    (measured,) = json.loads((folder / "latencies.json").read_text()).values()
    assert measured["cells"] == 24 and measured["error"] < 1 and len(measured["latencies"]) > 4
    assert {row["Outcome"] for row in trials(folder)} == {"ok"} and len(trials(folder)) == 2
    again = pqbench("search", manifest, "--data", data, "--continue", "--json")
    assert again.code == 0 and "layers' times" not in again.err, "measured once"

    recipes[0]["steps"][0]["prune"] |= {"criterion": "magic"}
    wrong = write_manifest(tmp_path / "wrong", trained=True, recipes=recipes)
    done = pqbench("search", wrong, "--data", data)
    assert done.code == 2 and "criterion" in done.err and "layers' times" not in done.err, done.err


def trials(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [({"batch_sizes": [1, 8]}, "batch_sizes must have one entry, not 2"),
     ({"recipes": MEASURED, "targets": [{"name": name, "backend": "onnxruntime"} for name in "ab"]},
      "latencies: measured takes one target, not 2"),
     ({"recipes": [{"name": "baseline"}]}, "search needs recipes with steps"),
     ({"goal": {"minimise": "size"}}, "goal: unknown key 'minimise'; did you mean 'minimize'?")],
)  # fmt: skip
def test_a_search_that_cannot_be_is_one_line(
    changes: dict[str, object], problem: str, pqbench: Pqbench, tmp_path: Path
) -> None:
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(TINY | {"recipes": SPACE} | changes, sort_keys=False))
    done = pqbench("search", tmp_path / "m.yaml", "--data", tmp_path / "data")
    assert done.code == 2 and problem in done.err and "Traceback" not in done.err, done.err
    assert not (tmp_path / "data/experiments").exists(), "nothing is made of bad input"


@pytest.mark.long
@pytest.mark.alone
def test_scenarios_replicates_and_early_stopping_in_one_run(
    pqbench: Pqbench, write_manifest: Write, tmp_path: Path
) -> None:
    quick = {"warmup_seconds": 0.01, "min_seconds": 0.1, "max_seconds": 0.1, "min_iterations": 6, "profile_seconds": 0}
    ruined = {"name": "ruined", "steps": [{"prune": {"method": "random-unstructured", "amount": 0.9}}]}
    offline = write_manifest(
        tmp_path / "offline", measure=quick | {"scenario": "offline"}, concurrency=[1, 2], build_replicates=2,
        early_stopping={"max_drop": 5, "margin": 20}, recipes=[{"name": "baseline"}, ruined],
    )  # fmt: skip
    done = pqbench("run", offline, "--data", tmp_path / "data", "--json")
    assert done.code == 0, done.err
    rows = json.loads(done.out)["cells"]
    assert [(row["recipe"], row["concurrency"]) for row in rows] == [
        ("baseline", 1),
        ("baseline", 2),
        ("ruined", 1),
        ("ruined", 2),
    ]
    assert all(
        row["builds"] == 2 and row["between_build_sd_percent"] > 0 and row["within_run_sd_percent"] > 0 for row in rows
    )
    assert all(row["images_per_s"] > 100 for row in rows)
    stopped = [row for row in rows if row["accuracy_stopped_early"]]
    assert {row["recipe"] for row in stopped} == {"ruined"} and stopped[0]["accuracy_stopped_early"].startswith(
        "accuracy too low after 1"
    )
    assert stopped[0]["accuracy_images"] < 360 and rows[0]["accuracy_images"] == 360

    served = write_manifest(
        tmp_path / "served",
        measure=quick | {"scenario": "server", "p99_seconds": 0.05, "min_seconds": 0.5, "max_seconds": 0.5},
    )
    valid: dict[str, dict[str, Any]] = {}
    for _ in range(3):  # a machine that others use can make the load generator late; such a measurement is not valid
        done = pqbench("run", served, "--data", tmp_path / "data", "--json")
        assert done.code == 0, done.err
        valid |= {row["recipe"]: row for row in json.loads(done.out)["cells"] if row["server_is_valid"]}
        if len(valid) == len(TINY["recipes"]):
            break
    assert len(valid) == len(TINY["recipes"]), done.err
    for row in valid.values():
        assert row["server_rate_per_s"] > 10 and row["p99_ms"] <= 50 and row["speedup"] is None

    alone = write_manifest(tmp_path / "alone", measure=quick | {"paired": False})
    rows = json.loads(pqbench("run", alone, "--data", tmp_path / "data", "--json").out)["cells"]
    assert rows[1]["is_paired"] is False and rows[1]["speedup_low"] < rows[1]["speedup"] < rows[1]["speedup_high"]
