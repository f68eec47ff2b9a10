"""Stand-ins for services: launchers that start nothing, clients that answer from a script, steps that do as they are told."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

from pqbench.common.v1.common_pb2 import Blob
from pqbench_orchestrator.execution.services import Launcher, Services
from pqbench_orchestrator.steps.step import Json, Needs, Step, Work
from pqbench_orchestrator.store.ledger import StepResult
from pqbench_wire.blobs import BlobStore
from pqbench_wire.client import STALLED_AFTER, Client
from pqbench_wire.errors import Unavailable

Answer = Callable[[str, Any], Any]  # method and request -> result


class FakeChannel:
    """A channel whose methods are their own names."""

    def __getattr__(self, kind: str) -> Callable[..., Callable[[], str]]:
        return lambda path, *_, **__: path.rpartition("/")[2]


class FakeClient:
    """A client whose calls are answered by `answer`."""

    def __init__(self, answer: Answer) -> None:
        self.channel, self._answer = FakeChannel(), answer
        self.stalled_after = STALLED_AFTER
        self.calls: list[tuple[str, Any]] = []
        self.closed = False

    def call(self, method: str, request: Any, deadline: float = 0.0) -> Any:
        self.calls.append((method, request))
        return self._answer(method, request)

    def result(self, method: str, request: Any, on_event: Any = None, silence: float = 0.0) -> Any:
        self.calls.append((method, request))
        return self._answer(method, request)

    def push(self, store: BlobStore, blobs: Iterable[Blob]) -> None: ...

    def pull(self, store: BlobStore, blobs: Iterable[Blob]) -> None: ...

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeLauncher:
    """Starts a fake client, so often as is asked; with `problem` it does not start."""

    answer: Answer = lambda method, request: None
    swapped: bool = False
    problem: str = ""
    words: str = ""
    started: list[FakeClient] = field(default_factory=list)
    stops: int = 0

    def start(self) -> Client:
        if self.problem:
            raise Unavailable(self.problem)
        self.started.append(FakeClient(self.answer))
        return cast(Client, self.started[-1])

    def alive(self) -> bool:
        return bool(self.started)

    def last_words(self) -> str:
        return self.words

    def stop(self) -> None:
        self.stops += 1


def services_of(**launchers: FakeLauncher) -> Services:
    """Services by place; `target_x` is the place "target x"."""
    return Services({name.replace("_", " "): cast(Launcher, launcher) for name, launcher in launchers.items()})


@dataclass(frozen=True, kw_only=True)
class Scripted:
    """A kind of step that does what a test says."""

    KIND: ClassVar[str] = "scripted"
    REUSED: ClassVar[bool] = True

    name: str
    do: Callable[[Work, Step, Needs], StepResult] = field(default=lambda work, step, needs: {"done": step.label})

    def identity(self) -> Json:
        return {"name": self.name}

    def run(self, work: Work, step: Step, needs: Needs) -> StepResult:
        return self.do(work, step, needs)


@dataclass(frozen=True, kw_only=True)
class Once(Scripted):
    """One whose result no other run may use."""

    REUSED: ClassVar[bool] = False
