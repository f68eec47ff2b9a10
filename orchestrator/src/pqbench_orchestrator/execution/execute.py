"""Executes the plan's steps one after the other; each is recorded in the ledger before the next begins."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pqbench_orchestrator.dataset import Data
from pqbench_orchestrator.execution.services import Services
from pqbench_orchestrator.planning.places import ORCHESTRATOR
from pqbench_orchestrator.planning.plan import Plan
from pqbench_orchestrator.steps.measure import Measure
from pqbench_orchestrator.steps.step import Step, blobs_of
from pqbench_orchestrator.store.ledger import Ledger, StepRecord, StepResult
from pqbench_orchestrator.store.step_cache import StepCache
from pqbench_wire.blobs import BlobStore
from pqbench_wire.client import blobs_in
from pqbench_wire.errors import (
    BlobCorrupt,
    Failed,
    Frozen,
    InvalidInput,
    NotFound,
    PqbenchError,
    Refused,
    Timeout,
    Unavailable,
)
from pqbench_wire.jobs import WAITING

ATTEMPTS = 3  # at a step whose service went away, or that meets damaged blobs


class Watcher(Protocol):
    """Its methods are called as steps start, progress and finish; the terminal's display is a watcher."""

    def started(self, step: Step) -> None: ...

    def progress(self, step: Step, stage: str, fraction: float) -> None: ...

    def finished(self, step: Step, record: StepRecord) -> None: ...


class NullWatcher:
    """A watcher that does nothing."""

    def started(self, step: Step) -> None: ...

    def progress(self, step: Step, stage: str, fraction: float) -> None: ...

    def finished(self, step: Step, record: StepRecord) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Executes plans; it is also the `steps.step.Work` that the steps work with."""

    services: Services
    store: BlobStore
    ledger: Ledger
    cache: StepCache
    datasets: Mapping[str, Data]
    watcher: Watcher
    steps: dict[str, Step] = field(default_factory=dict)  # of the plans so far, by key

    def run(self, plan: Plan, keep: bool = False) -> None:
        """Do every step that is not done yet.

        A step that needs one without a result is not tried: it is recorded with the same outcome and reason. A service
        is ended after its last step, unless `keep` is set because other plans follow.
        """
        self.steps.update({step.key: step for step in plan.steps})
        last = {step.place: index for index, step in enumerate(plan.steps)}
        session: dict[str, int] = {}  # place -> the repeat that was measured there last
        records = self.ledger.records([step.key for step in plan.steps])
        for index, (step, done) in enumerate(zip(plan.steps, records, strict=True)):
            repeat = step.spec.repeat if isinstance(step.spec, Measure) else session.get(step.place, 0)
            if session.setdefault(step.place, repeat) != repeat:
                session[step.place] = repeat
                self.services.renew(step.place)
            self._settle(step, done)
            if not keep and index == last[step.place] and step.place != ORCHESTRATOR:
                self.services.stop(step.place)

    def state(self, step: Step) -> str:
        """ "cached" where the step cache has a result that will be used, else "to do"."""
        cached = self.cache.get(step.key) if step.spec.REUSED else None
        return "cached" if cached is not None and self._has_blobs(cached) else "to do"

    def _settle(self, step: Step, done: StepRecord | None) -> None:
        if done is not None and done.done and self._has_blobs(done.result):
            self.watcher.finished(step, done)
            return
        cached = self.cache.get(step.key) if step.spec.REUSED else None
        if cached is not None and self._has_blobs(cached):
            self._record(step, "cached", result=cached)
            return
        if blocker := self._blocker(step):
            self._record(step, blocker.outcome, reason=blocker.reason)
            return
        self.ledger.record(key=step.key, kind=step.kind, label=step.label, place=step.place, outcome="started")
        self.watcher.started(step)
        begin = time.monotonic()
        try:
            result = self._attempt(step)
        except (InvalidInput, NotFound) as error:
            # The plan was validated, so a request that a service rejects now is a failure of pqbench or of the data.
            self._record(step, "failed", reason=str(error), seconds=time.monotonic() - begin)
        except PqbenchError as error:
            self._record(step, _outcome(error), reason=str(error), seconds=time.monotonic() - begin)
        except OSError as error:  # such as a full disk; other steps may still work
            self._record(step, "failed", reason=str(error), seconds=time.monotonic() - begin)
        else:
            seconds = time.monotonic() - begin
            self._record(step, "ok", result=result, seconds=seconds)
            if step.spec.REUSED:
                self.cache.put(step.key, step.kind, result, seconds)

    def _attempt(self, step: Step) -> StepResult:
        """The step's result, in up to ATTEMPTS attempts.

        A service that went away is started again for the next attempt; one that froze or timed out is ended, and the
        error is raised. A damaged blob has been removed by the side that found it: it is sent again, or the step that
        made it is done again.
        """
        for left in reversed(range(ATTEMPTS)):
            try:
                return step.spec.run(self, step, self._results(step))
            except (Frozen, Timeout):
                if step.place != ORCHESTRATOR:
                    self.services.stop(step.place)  # what hangs there would block the following steps
                raise
            except BlobCorrupt:
                if not left:
                    raise
                self._make_again(step)
            except Unavailable as error:
                if step.place == ORCHESTRATOR:
                    raise
                words = self.services.last_words(step.place)
                self.services.stop(step.place)
                if not left:
                    raise Unavailable(f"{error}; end of its log: {words}" if words else str(error)) from error
        raise Failed("unreachable")

    def _make_again(self, step: Step) -> None:
        """Do those of the needed steps again whose blobs are gone, and first, likewise, those that they need."""
        for key in step.needs.values():
            record = self.ledger.step(key)
            if record is not None and record.done and not self._has_blobs(record.result):
                self._make_again(self.steps[key])
                self._settle(self.steps[key], self.ledger.step(key))

    def _blocker(self, step: Step) -> StepRecord | None:
        records = [self.ledger.step(key) for key in step.needs.values()]
        return next((record for record in records if record is not None and not record.done), None)

    def _results(self, step: Step) -> dict[str, StepResult]:
        results = {}
        for role, key in step.needs.items():
            record = self.ledger.step(key)
            if record is None or record.result is None:
                raise Failed(f"{step.label}: the result of its {role} step is missing")
            results[role] = record.result
        return results

    def _record(
        self, step: Step, outcome: str, *, reason: str = "", result: StepResult | None = None, seconds: float = 0.0
    ) -> None:
        self.ledger.record(
            key=step.key, kind=step.kind, label=step.label, place=step.place,
            outcome=outcome, reason=reason, seconds=seconds, result=result,
        )  # fmt: skip
        record = self.ledger.step(step.key)
        assert record is not None
        self.watcher.finished(step, record)

    def _has_blobs(self, result: StepResult | None) -> bool:
        return result is not None and all(self.store.has(blob) for blob in blobs_of(result))

    def progress(self, step: Step, stage: str, fraction: float) -> None:
        """Report to the watcher how far a step is."""
        self.watcher.progress(step, stage, fraction)

    def call(self, step: Step, stub: Any, method: str, request: Any, silence: float = 0.0) -> Any:
        """See `steps.step.Work`."""
        client = self.services.client(step.place)
        client.push(self.store, blobs_in(request))
        call = getattr(stub(client.channel), method)
        result = client.result(call, request, lambda event: self._forward(step, event), silence)
        client.pull(self.store, blobs_in(result))
        return result

    def _forward(self, step: Step, event: Any) -> None:
        if event.WhichOneof("event") == "progress":
            progress = event.progress
            stage = progress.message if progress.stage == WAITING else progress.stage
            self.watcher.progress(step, stage, progress.fraction)


def _outcome(error: PqbenchError) -> str:
    if isinstance(error, Refused):
        return "refused"
    return "unavailable" if isinstance(error, Unavailable) else "failed"
