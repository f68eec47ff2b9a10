"""Layers' times for a search: what is profiled, and what is said where that does not work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from pqbench.compressor.v1.compressor_pb2 import CompressResult, LayerStatistics, Statistics
from pqbench.runtime.v1.runtime_pb2 import LayerTime, ProfileResult
from pqbench_orchestrator.config.manifest import Manifest, Target
from pqbench_orchestrator.config.recipes import Recipe
from pqbench_orchestrator.decide.layer_times import cells_to_profile, fit_to, steps_of
from pqbench_orchestrator.execution.execute import Execution, NullWatcher
from pqbench_orchestrator.execution.session import Session
from pqbench_orchestrator.planning.facts import Survey
from pqbench_orchestrator.planning.plan import Cell, Plan
from pqbench_orchestrator.steps.step import Step
from pqbench_orchestrator.store.ledger import Ledger
from pqbench_orchestrator.store.step_cache import StepCache
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import Failed, InvalidInput, Unavailable

from ..fakes import FakeLauncher, Scripted, services_of

PLACE = "target a"
MANIFEST = Manifest.model_validate({
    "name": "s", "models": [{"model": "digits/resnet"}], "datasets": [{"dataset": "digits"}],
    "recipes": [{"steps": [{"prune": {"method": "removal", "amount": 0.1, "target": "latency",
                                      "latencies": "measured"}}]}],
    "targets": [{"name": "a", "backend": "onnxruntime"}],
})  # fmt: skip
Do = Callable[..., Any]


@pytest.fixture
def execution(store: BlobStore, tmp_path: Path) -> Iterator[Execution]:
    cache = StepCache(tmp_path / "steps.sqlite")
    with services_of(target_a=FakeLauncher()) as services, Ledger(Path(":memory:")) as ledger:
        yield Execution(services=services, store=store, ledger=ledger, cache=cache, datasets={}, watcher=NullWatcher())
    cache.close()


def compressed(macs: int) -> dict[str, Any]:
    layers = [LayerStatistics(name="stem", macs=macs)]
    return json_format.MessageToDict(CompressResult(statistics=Statistics(layers=layers)))


def profile(name: str, seconds: float) -> dict[str, Any]:
    return json_format.MessageToDict(ProfileResult(layers=[LayerTime(name=name, seconds=seconds)]))


def a_plan(count: int, names: str = "stem", failing: dict[int, Exception] | None = None) -> Plan:
    """Cells of `count` widths; the layer takes 10 µs and as many as it has channels. Some profiles may fail."""

    def step(key: str, do: Do, **needs: str) -> Step:
        return Step(key=key, label=key, place=PLACE, spec=Scripted(name=key, do=do), needs=needs, stage=(0,))

    def profiling(index: int) -> Do:
        def do(*_: Any) -> dict[str, Any]:
            if failing and index in failing:
                raise failing[index]
            return profile(names, (10 + 100 - index) / 1e6)

        return do

    steps, cells = [step("whole", lambda *_: compressed(100))], []
    for index in range(count):
        steps.append(step(f"pruned {index}", lambda *_, macs=100 - index: compressed(macs), unpruned="whole"))
        steps.append(step(f"profile {index}", profiling(index), variant=f"pruned {index}"))
        roles = {"unpruned": "whole", "variant": f"pruned {index}", "profile": f"profile {index}", "score": "none"}
        cells.append(cell(f"layers' times 0 {index}", steps=roles))
    return Plan(steps=tuple(steps), cells=tuple(cells))


def cell(label: str, **more: Any) -> Cell:
    return Cell(
        key=label, model="m", dataset="d", recipe=Recipe.model_construct(name=label, steps=(), targets=None),
        target=Target(name="a", backend="onnxruntime"), batch_size=1, concurrency=1, repeat=0,
        scenario="single-stream", **more,
    )  # fmt: skip


def fitted(plan: Plan, execution: Execution) -> Any:
    (cells,) = cells_to_profile(MANIFEST, plan).values()
    facts = Survey(models={}, recipes={}, targets={}, datasets={}, compressors={})
    return fit_to(cells, Session(manifest=MANIFEST, facts=facts, plan=plan, execution=execution))


def test_only_what_is_needed_is_done_and_lines_are_fitted(execution: Execution) -> None:
    plan = a_plan(6)
    found = fitted(plan, execution)
    assert found.cells == 6 and found.error == pytest.approx(0, abs=1e-6)
    assert found.as_option() == {"stem": {"fixed": 10.0, "scaled": 100.0}}
    assert len(steps_of(plan.cells, plan)) == len(execution.ledger.steps()) == 13


def test_one_that_fails_does_not_matter(execution: Execution) -> None:
    assert fitted(a_plan(6, failing={0: Failed("crashed")}), execution).cells == 5


@pytest.mark.parametrize(
    ("plan", "error", "problem"),
    [
        (a_plan(5, failing={0: Failed("crashed"), 3: Failed("x")}), InvalidInput, "3 of 5 models .*: crashed"),
        (a_plan(6, failing={4: Unavailable("gone")}), Unavailable, "gone.*; --continue goes on"),
        (a_plan(6, names="aten::conv2d"), InvalidInput, "no profile of these cells names a layer"),
        (Plan(steps=(), cells=(cell("layers' times 0 0.1"),)), InvalidInput, "precision is simulated"),
        (Plan(steps=(), cells=(cell("layers' times 0 0.1", outcome="refused", reason="no"),)), InvalidInput, "no$"),
    ],
)
def test_what_does_not_work_is_one_line(plan: Plan, error: type[Exception], problem: str, execution: Execution) -> None:
    with pytest.raises(error, match=f"latencies: measured: .*{problem}"):
        fitted(plan, execution)


def test_a_profiler_that_names_no_layer_is_found_with_one_model(execution: Execution) -> None:
    with pytest.raises(InvalidInput, match="names a layer"):
        fitted(a_plan(6, names="aten::conv2d"), execution)
    assert [step.key for step in execution.ledger.steps()] == ["whole", "pruned 0", "profile 0"]
