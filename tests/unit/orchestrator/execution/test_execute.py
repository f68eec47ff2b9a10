"""Execution: each step once, in order, recorded before the next begins; what fails, freezes or goes away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from pqbench.common.v1.common_pb2 import Blob
from pqbench_orchestrator.execution.execute import ATTEMPTS, Execution, NullWatcher
from pqbench_orchestrator.planning.plan import Plan
from pqbench_orchestrator.steps.measure import Measure
from pqbench_orchestrator.steps.step import Needs, Step, Work
from pqbench_orchestrator.store.ledger import Ledger, StepResult
from pqbench_orchestrator.store.step_cache import StepCache
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import BlobCorrupt, Failed, Frozen, InvalidInput, PqbenchError, Refused, Unavailable

from ..fakes import FakeLauncher, Once, Scripted, services_of

A, B = "target a", "target b"


class Silent(Measure):
    """A measurement that finds nothing."""

    def run(self, work: Work, step: Step, needs: Needs) -> StepResult:
        return {}


class Recording(NullWatcher):
    """Remembers which steps were begun."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def started(self, step: Step) -> None:
        self.begun.append(step.label)


@pytest.fixture
def launchers() -> dict[str, FakeLauncher]:
    return {"target_a": FakeLauncher(words="its log"), "target_b": FakeLauncher()}


@pytest.fixture
def execution(launchers: dict[str, FakeLauncher], store: BlobStore, tmp_path: Path) -> Iterator[Execution]:
    cache = StepCache(tmp_path / "steps.sqlite")
    with services_of(**launchers) as services, Ledger(Path(":memory:")) as ledger:
        yield Execution(services=services, store=store, ledger=ledger, cache=cache, datasets={}, watcher=Recording())
    cache.close()


def step(name: str, do: Any = None, place: str = A, kind: type[Scripted] = Scripted, **needs: str) -> Step:
    spec = kind(name=name) if do is None else kind(name=name, do=do)
    return Step(key=name, label=name, place=place, spec=spec, needs=needs, stage=(0,))


def outcome(execution: Execution, key: str) -> tuple[str, str]:
    record = execution.ledger.step(key)
    assert record is not None
    return record.outcome, record.reason


def run(execution: Execution, *steps: Step) -> list[str]:
    """Run steps; returns the labels of those that were begun."""
    assert isinstance(execution.watcher, Recording)
    execution.watcher.begun.clear()
    execution.run(Plan(steps=steps, cells=()))
    return execution.watcher.begun


def test_a_step_gets_the_results_of_what_it_needs(execution: Execution) -> None:
    def second(work: Work, step: Step, needs: Needs) -> StepResult:
        return {"sum": needs["first"]["value"] + 1}

    assert run(execution, step("one", lambda *_: {"value": 1}), step("two", second, first="one")) == ["one", "two"]
    record = execution.ledger.step("two")
    assert record is not None and record.result == {"sum": 2}


def test_what_is_done_is_not_done_again(execution: Execution) -> None:
    assert run(execution, step("one")) == ["one"]
    assert run(execution, step("one")) == []


def test_records_are_read_many_at_a_time(execution: Execution, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pqbench_orchestrator.store.ledger.READ_AT_ONCE", 2)
    steps = [step(name) for name in "abcde"]
    assert run(execution, *steps[1:4]) == ["b", "c", "d"]
    assert run(execution, *steps) == ["a", "e"]


def test_other_runs_use_what_may_be_reused(execution: Execution) -> None:
    run(execution, step("one"), step("measured", kind=Once))
    with Ledger(Path(":memory:")) as another:
        other = Execution(
            services=execution.services, store=execution.store, ledger=another, cache=execution.cache, datasets={},
            watcher=Recording(),
        )  # fmt: skip
        assert other.state(step("one")) == "cached" and other.state(step("measured", kind=Once)) == "to do"
        assert run(other, step("one"), step("measured", kind=Once)) == ["measured"]
        assert outcome(other, "one") == ("cached", "")


def test_a_result_whose_blob_is_gone_is_made_again(execution: Execution, store: BlobStore) -> None:
    def make(*_: Any) -> StepResult:
        return {"blob": json_format.MessageToDict(store.put(b"content"))}

    run(execution, step("one", make))
    store.path(store.put(b"content")).unlink()
    assert run(execution, step("one", make)) == ["one"] and store.has(store.put(b"content"))


@pytest.mark.parametrize(
    ("error", "wanted"),
    [(Refused("no route"), "refused"), (Failed("broke"), "failed"), (InvalidInput("odd"), "failed"),
     (OSError("No space left on device"), "failed"), (Frozen("frozen: no sign of life"), "failed")],
)  # fmt: skip
def test_what_a_step_raises_is_its_outcome_and_that_of_what_needs_it(
    execution: Execution, error: Exception, wanted: str
) -> None:
    def fail(*_: Any) -> StepResult:
        raise error

    begun = run(execution, step("one", fail), step("two", one="one"), step("three", two="two"), step("apart"))
    assert begun == ["one", "apart"], "what needs it is not tried, what does not goes on"
    for key in ("one", "two", "three"):
        assert outcome(execution, key) == (wanted, str(error))
    assert outcome(execution, "apart")[0] == "ok"


def test_a_service_that_went_away_is_started_again(execution: Execution, launchers: dict[str, FakeLauncher]) -> None:
    tries: list[int] = []

    def shaky(work: Work, step: Step, needs: Needs) -> StepResult:
        tries.append(1)
        execution.services.client(step.place)
        if len(tries) < ATTEMPTS:
            raise Unavailable("connection lost")
        return {}

    run(execution, step("one", shaky))
    assert outcome(execution, "one")[0] == "ok" and len(tries) == ATTEMPTS
    assert len(launchers["target_a"].started) == ATTEMPTS


def test_a_service_that_stays_away_is_unavailable_with_its_last_words(execution: Execution) -> None:
    def gone(*_: Any) -> StepResult:
        raise Unavailable("connection lost")

    run(execution, step("one", gone))
    assert outcome(execution, "one") == ("unavailable", "connection lost; end of its log: its log")


def test_a_frozen_service_is_ended_at_once(execution: Execution, launchers: dict[str, FakeLauncher]) -> None:
    tries: list[int] = []

    def freeze(*_: Any) -> StepResult:
        tries.append(1)
        raise Frozen("frozen")

    run(execution, step("one", freeze), step("two"))
    assert len(tries) == 1 and launchers["target_a"].stops >= 1 and outcome(execution, "two")[0] == "ok"


def test_the_step_that_made_a_damaged_blob_is_done_again(execution: Execution, store: BlobStore) -> None:
    made: list[Blob] = []

    def make(*_: Any) -> StepResult:
        made.append(store.put(b"content"))
        return {"blob": json_format.MessageToDict(made[-1])}

    def use(*_: Any) -> StepResult:
        if len(made) == 1:
            store.path(made[0]).unlink()  # whoever finds the damage removes it
            raise BlobCorrupt("damaged")
        return {}

    run(execution, step("one", make), step("two", use, one="one"))
    assert len(made) == 2 and outcome(execution, "two")[0] == "ok"


def test_a_blob_that_is_damaged_again_and_again_fails_the_step(execution: Execution) -> None:
    def corrupt(*_: Any) -> StepResult:
        raise BlobCorrupt("damaged")

    run(execution, step("one", corrupt))
    assert outcome(execution, "one") == ("failed", "damaged")


def test_a_service_is_ended_after_its_last_step(execution: Execution, launchers: dict[str, FakeLauncher]) -> None:
    def use(work: Work, step: Step, needs: Needs) -> StepResult:
        execution.services.client(step.place)
        return {"a": launchers["target_a"].stops}

    run(execution, step("one", use), step("two", use), step("three", use, place=B))
    record = execution.ledger.step("three")
    assert record is not None and record.result == {"a": 1} and launchers["target_b"].stops == 1
    execution.run(Plan(steps=(step("four", use),), cells=()), keep=True)
    assert launchers["target_a"].stops == 1, "other plans follow"


def test_each_repeat_is_a_session_of_its_own(execution: Execution, launchers: dict[str, FakeLauncher]) -> None:
    """Engines are unloaded between the repeats of one target."""
    renewed: list[str] = []
    execution.services.renew = renewed.append  # type: ignore[method-assign]

    def measured(repeat: int) -> Step:
        spec = Silent(target="a", settings={}, run_name="r", repeat=repeat)
        return Step(key=f"m{repeat}", label=f"m{repeat}", place=A, spec=spec, needs={}, stage=(repeat,))

    execution.run(Plan(steps=(measured(0), measured(1), measured(1)), cells=()))
    assert renewed == [A]


def test_an_unfinished_need_is_named(execution: Execution) -> None:
    run(execution, step("two", one="never planned"))
    assert outcome(execution, "two") == ("failed", "two: the result of its one step is missing")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_is_no_expected_failure_ends_the_run(execution: Execution, error: type[BaseException]) -> None:
    def crash(*_: Any) -> StepResult:
        raise error

    with pytest.raises(error):
        run(execution, step("one", crash))
    assert outcome(execution, "one")[0] == "started", "the ledger knows where it ended"


def test_every_error_of_the_tree_has_an_outcome(execution: Execution) -> None:
    def raising(error: PqbenchError) -> Callable[..., StepResult]:
        def fail(*_: Any) -> StepResult:
            raise error

        return fail

    kinds = [kind for kind in PqbenchError.__subclasses__() if kind.__init__ is PqbenchError.__init__]
    run(execution, *(step(kind.__name__, raising(kind("x"))) for kind in kinds))
    found = {outcome(execution, kind.__name__)[0] for kind in kinds}
    assert found <= {"refused", "unavailable", "failed"} and len(kinds) > 5
