"""Execution: the plan's steps, one after the other, each recorded in the ledger before the next begins."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from google.protobuf import json_format

from pqbench.common.v1.common_pb2 import Artifact, Blob, Form, Images, Preprocessing
from pqbench.compressor.v1 import compressor_pb2, compressor_pb2_grpc
from pqbench.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from pqbench_orchestrator.dataset import Data, prepare
from pqbench_orchestrator.ledger import Ledger, StepCache, StepRecord
from pqbench_orchestrator.metric import METRICS, Outputs
from pqbench_orchestrator.plan import ORCHESTRATOR, REUSED_BY_OTHER_RUNS, Plan, Step
from pqbench_orchestrator.services import Services
from pqbench_orchestrator.stats import is_hopeless
from pqbench_wire import fidelity
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
    from_reason,
)
from pqbench_wire.jobs import WAITING

LEAST_PART, MOST_PARTS = 128, 20  # images in a part of a prediction that may stop early, and parts
ATTEMPTS = 3  # of a step whose service went away
Results = dict[str, dict[str, Any]]  # role -> result of the step that is needed


class Watcher(Protocol):
    """Is told what happens; the display and tests are watchers."""

    def started(self, step: Step) -> None: ...

    def progress(self, step: Step, stage: str, fraction: float) -> None: ...

    def finished(self, step: Step, record: StepRecord) -> None: ...


class Nobody:
    """Watches nothing."""

    def started(self, step: Step) -> None: ...

    def progress(self, step: Step, stage: str, fraction: float) -> None: ...

    def finished(self, step: Step, record: StepRecord) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Everything that steps need."""

    services: Services
    store: BlobStore
    ledger: Ledger
    cache: StepCache
    datasets: dict[str, Data]
    watcher: Watcher
    steps: dict[str, Step] = field(default_factory=dict)  # of the plans so far, by key

    def run(self, plan: Plan, keep: bool = False) -> None:
        """Do every step that is not done; a step whose needs failed is recorded as failed with their reason.

        A service is ended after its last step, unless `keep`: other plans follow.
        """
        self.steps.update({step.key: step for step in plan.steps})
        places = [step.place for step in plan.steps]
        session: dict[str, int] = {}  # place -> the repeat that it measured last
        for index, step in enumerate(plan.steps):
            if step.kind == "measure" and session.setdefault(step.place, step.spec["repeat"]) != step.spec["repeat"]:
                session[step.place] = step.spec["repeat"]
                self.services.renew(step.place)
            self._settle(step)
            if not keep and step.place not in places[index + 1 :] and step.place != ORCHESTRATOR:
                self.services.stop(step.place)

    def state(self, step: Step) -> str:
        """ "cached" where a result of an earlier run will be used, "to do" else."""
        cached = self.cache.get(step.key) if step.kind in REUSED_BY_OTHER_RUNS else None
        return "cached" if cached is not None and self._has_blobs(cached) else "to do"

    def _settle(self, step: Step) -> None:
        done = self.ledger.step(step.key)
        if done is not None and done.done and self._has_blobs(done.result):
            self.watcher.finished(step, done)
            return
        cached = self.cache.get(step.key) if step.kind in REUSED_BY_OTHER_RUNS else None
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
            # The plan was validated: a service that finds fault with it now is a failure of ours or of the data.
            self._record(step, "failed", reason=str(error), seconds=time.monotonic() - begin)
        except PqbenchError as error:
            self._record(step, _outcome(error), reason=str(error), seconds=time.monotonic() - begin)
        except OSError as error:  # of the disk: what it says is the reason, and other steps may still work
            self._record(step, "failed", reason=str(error), seconds=time.monotonic() - begin)
        else:
            seconds = time.monotonic() - begin
            self._record(step, "ok", result=result, seconds=seconds)
            if step.kind in REUSED_BY_OTHER_RUNS:
                self.cache.put(step.key, step.kind, result, seconds)

    def _attempt(self, step: Step) -> dict[str, Any]:
        """The step's result. A service that went away is started again and asked again; one that froze is ended.

        A damaged blob is removed by whoever finds it: the step that made it is done again, or it is sent again.
        """
        for left in reversed(range(ATTEMPTS)):
            try:
                return HANDLERS[step.kind](self, step, self._results(step))
            except (Frozen, Timeout):
                if step.place != ORCHESTRATOR:
                    self.services.stop(step.place)  # what hangs there would hold up the steps that follow
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
                    raise Unavailable(f"{error}; its last words: {words}" if words else str(error)) from error
        raise Failed("unreachable")

    def _make_again(self, step: Step) -> None:
        """Do those steps again whose blobs are gone, of all that a step needs."""
        for key in step.needs.values():
            record = self.ledger.step(key)
            if record is not None and record.done and not self._has_blobs(record.result):
                self._make_again(self.steps[key])
                self._settle(self.steps[key])

    def _blocker(self, step: Step) -> StepRecord | None:
        records = [self.ledger.step(key) for key in step.needs.values()]
        return next((record for record in records if record is not None and not record.done), None)

    def _results(self, step: Step) -> Results:
        results = {}
        for role, key in step.needs.items():
            record = self.ledger.step(key)
            if record is None or record.result is None:
                raise Failed(f"{step.label}: its {role} was not made")
            results[role] = record.result
        return results

    def _record(
        self, step: Step, outcome: str, *, reason: str = "", result: dict[str, Any] | None = None, seconds: float = 0.0
    ) -> None:
        self.ledger.record(
            key=step.key, kind=step.kind, label=step.label, place=step.place,
            outcome=outcome, reason=reason, seconds=seconds, result=result,
        )  # fmt: skip
        record = self.ledger.step(step.key)
        assert record is not None
        self.watcher.finished(step, record)

    def _has_blobs(self, result: dict[str, Any] | None) -> bool:
        return result is not None and all(self.store.has(blob) for blob in blobs_of(result))

    def call(self, step: Step, stub: Any, method: str, request: Any, silence: float = 0.0) -> Any:
        """The result of a long call: inputs pushed before, outputs pulled after.

        `silence`: seconds for which it may rightly report no progress, besides the manifest's `stall_seconds`.
        """
        client = self.services.client(step.place)
        client.push(self.store, blobs_in(request))
        call = getattr(stub(client.channel), method)
        result = client.result(call, request, lambda event: self._forward(step, event), silence)
        client.pull(self.store, blobs_in(result))
        return result

    def _forward(self, step: Step, event: Any) -> None:
        if event.WhichOneof("event") == "progress":
            told = event.progress
            self.watcher.progress(step, told.message if told.stage == WAITING else told.stage, told.fraction)


def _prepare(execution: Execution, step: Step, needs: Results) -> dict[str, Any]:
    spec = step.spec
    data = execution.datasets[spec["dataset"]]
    images = prepare(
        data.split(spec["split"]),
        json_format.ParseDict(spec["preprocessing"], Preprocessing()),
        execution.store,
        limit=spec["limit"],
        seed=spec["seed"],
        held_out=spec.get("held_out"),
        outputs=data.outputs,
        progress=lambda fraction: execution.watcher.progress(step, "prepare", fraction),
    )
    return json_format.MessageToDict(images)


def _compress(execution: Execution, step: Step, needs: Results) -> dict[str, Any]:
    request = compressor_pb2.CompressRequest(
        model=json_format.ParseDict(step.spec["model"], compressor_pb2.Model()),
        steps=[json_format.ParseDict(s, compressor_pb2.Step()) for s in step.spec["steps"]],
        forms=step.spec["forms"],
        verification=_images(needs["verification"]),
        seed=step.spec["seed"],
    )
    if "training" in needs:
        request.training.CopyFrom(_images(needs["training"]))
    for role in ("checkpoint", "baseline"):
        if role in needs:
            getattr(request, role).CopyFrom(json_format.ParseDict(needs[role]["checkpoint"], Blob()))
    return json_format.MessageToDict(
        execution.call(step, compressor_pb2_grpc.CompressorServiceStub, "Compress", request)
    )


def _build(execution: Execution, step: Step, needs: Results) -> dict[str, Any]:
    spec = step.spec
    request = runtime_pb2.BuildEngineRequest(
        backend=spec["backend"],
        options_json=spec["options"],
        artifact=_artifact(step, needs["variant"]),
        batch_size=spec["batch_size"],
        preprocessing=json_format.ParseDict(spec["preprocessing"], Preprocessing()),
        replicate=spec.get("replicate", 0),
    )
    return json_format.MessageToDict(execution.call(step, runtime_pb2_grpc.RuntimeServiceStub, "BuildEngine", request))


def _artifact(step: Step, result: dict[str, Any]) -> Artifact:
    """The variant in the form that a step is about. Raises the form's failure where it could not be made."""
    variant, form = json_format.ParseDict(result, compressor_pb2.CompressResult()), Form.Value(step.spec["form"])
    failed = next((f for f in variant.failures if f.form == form), None)
    if failed is not None:
        raise from_reason(failed.reason, failed.message)
    artifact = next((a for a in variant.artifacts if a.form == form), None)
    if artifact is None:
        raise Failed(f"{step.label}: the compressor made no {step.spec['form']}")
    return artifact


def _verify(execution: Execution, step: Step, needs: Results) -> dict[str, Any]:
    """How near an engine's outputs are to the model's. Raises Failed for a baseline that computes something else."""
    request = runtime_pb2.PredictRequest(engine=_engine(needs["build"]), inputs=_images(needs["inputs"]))
    result = execution.call(step, runtime_pb2_grpc.RuntimeServiceStub, "Predict", request)
    outputs, reference = execution.store.array(result.outputs), execution.store.array_of(needs["variant"]["reference"])
    if outputs.shape != reference.shape:
        raise Failed(
            f"computes something else: outputs {list(outputs.shape)}, the model's own are {list(reference.shape)}"
        )
    decibels = fidelity.sqnr(reference, outputs)
    least = fidelity.least_of_engine(needs["build"].get("executed", {}))
    if step.spec["baseline"] and decibels < least:
        raise Failed(
            f"computes something else: the engine's outputs are {decibels:.1f} dB from the model's own "
            f"on {len(outputs)} images; its precision reaches {least:.0f} dB at least"
        )
    return {"sqnr_db": decibels, "images": len(outputs)}


def _try(execution: Execution, step: Step, needs: Results) -> dict[str, Any]:
    """What a user finds who loads the artifact with the runtime's defaults."""
    request = runtime_pb2.TryArtifactRequest(
        backend=step.spec["backend"],
        artifact=_artifact(step, needs["variant"]),
        preprocessing=json_format.ParseDict(step.spec["preprocessing"], Preprocessing()),
        inputs=_images(needs["inputs"]),
        reference=json_format.ParseDict(needs["variant"]["reference"], Blob()),
        batch_sizes=step.spec["batch_sizes"],
        least_db=fidelity.least_of_artifact(needs["fidelity"]["sqnr_db"]),
    )
    return json_format.MessageToDict(execution.call(step, runtime_pb2_grpc.RuntimeServiceStub, "TryArtifact", request))


def _predict(execution: Execution, step: Step, needs: Results) -> dict[str, Any]:
    request = runtime_pb2.PredictRequest(engine=_engine(needs["build"]), inputs=_images(needs["inputs"]))
    if "early_stopping" in step.spec and not needs["baseline"].get("flattened", False):
        return _predict_in_parts(execution, step, needs, request)
    return json_format.MessageToDict(execution.call(step, runtime_pb2_grpc.RuntimeServiceStub, "Predict", request))


def _predict_in_parts(
    execution: Execution, step: Step, needs: Results, request: runtime_pb2.PredictRequest
) -> dict[str, Any]:
    """Predict part by part, each spread over the whole split, and stop where accuracy is hopeless.

    The result of a stopped one names the examples that it holds: `indices`, a blob int64 [n].
    """
    store, chosen = execution.store, step.spec["early_stopping"]
    labels = np.asarray(store.array(_images(needs["inputs"]).labels))
    outputs_of = execution.datasets[step.spec["dataset"]].outputs
    columns = list(outputs_of) if outputs_of is not None else slice(None)
    baseline = store.array_of(needs["baseline"]["outputs"])[:, columns].argmax(1) == labels
    acceptable = float(baseline.mean()) - chosen["max_drop"] / 100
    parts = -(-len(labels) // max(LEAST_PART, -(-len(labels) // MOST_PARTS)))
    outputs, indices, seconds = [], [], 0.0
    for part in range(parts):
        request.first, request.stride = part, parts
        result = execution.call(step, runtime_pb2_grpc.RuntimeServiceStub, "Predict", request)
        seconds += result.seconds
        outputs.append(np.asarray(store.array(result.outputs)))
        indices.append(np.arange(part, len(labels), parts))
        so_far = np.concatenate(indices)
        right = np.concatenate(outputs)[:, columns].argmax(1) == labels[so_far]
        if is_hopeless(right, acceptable, chosen["margin"] / 100):
            break
    order = np.argsort(so_far)
    made: dict[str, Any] = {
        "outputs": json_format.MessageToDict(store.put_array(np.concatenate(outputs)[order])),
        "seconds": seconds,
    }
    if len(so_far) < len(labels):
        made["indices"] = json_format.MessageToDict(store.put_array(so_far[order]))
        made["stopped"] = f"hopeless after {len(so_far)} of {len(labels)} images: {100 * right.mean():.1f} % right"
    return made


def _measure(execution: Execution, step: Step, needs: Results) -> dict[str, Any]:
    engines = [_engine(needs[role]) for role in ("build", "baseline") if role in needs]
    request = runtime_pb2.MeasureRequest(
        engines=engines,
        inputs=_images(needs["inputs"]),
        settings=runtime_pb2.MeasureSettings(**step.spec["settings"]),  # scenarios by their names
        run=f"{step.spec['run']} {step.key}",  # replicates and targets may ask the same: each is measured for itself
        repeat=step.spec["repeat"],
    )
    silence = measuring_silence(request)
    return json_format.MessageToDict(
        execution.call(step, runtime_pb2_grpc.RuntimeServiceStub, "Measure", request, silence)
    )


def measuring_silence(request: runtime_pb2.MeasureRequest) -> float:
    """Seconds for which a measurement may report nothing: warm-up, each probe of a rate, and energy are silent."""
    settings = request.settings
    each = settings.warmup_seconds + settings.max_seconds + settings.energy_seconds
    return each * len(request.engines) * max(1, settings.concurrency)


def _profile(execution: Execution, step: Step, needs: Results) -> dict[str, Any]:
    request = runtime_pb2.ProfileRequest(
        engine=_engine(needs["build"]),
        inputs=_images(needs["inputs"]),
        seconds=step.spec["seconds"],
        run=f"{step.spec['run']} {step.key}",
    )
    return json_format.MessageToDict(execution.call(step, runtime_pb2_grpc.RuntimeServiceStub, "Profile", request))


def _score(execution: Execution, step: Step, needs: Results) -> dict[str, Any]:
    """Metrics over the whole split; a model of a larger label set is scored on the dataset's outputs."""
    store, data = execution.store, execution.datasets[step.spec["dataset"]]
    labels = np.asarray(store.array(_images(needs["inputs"]).labels))
    variant, baseline = (store.array_of(needs[role]["outputs"]) for role in ("predict", "baseline"))
    if "indices" in needs["predict"]:
        scored_ones = store.array_of(needs["predict"]["indices"])
        labels, baseline = labels[scored_ones], baseline[scored_ones]
    classifies, labelled = not needs["predict"].get("flattened", False), data.split(step.spec["split"]).labelled
    if classifies and labelled:
        _check_labels(f"dataset {step.spec['dataset']}", data, labels, variant.shape[1])
    columns = list(data.outputs) if classifies and data.outputs is not None else slice(None)
    outputs = Outputs(variant=variant[:, columns], baseline=baseline[:, columns], labels=labels)
    applies = {"labels": classifies and labelled, "classes": classifies, "values": True}
    metrics = {name: METRICS.load(name) for name in step.spec["metrics"]}
    scored: dict[str, Any] = {
        "stopped": needs["predict"].get("stopped", ""),
        "metrics": {name: m.score(outputs) if applies[m.COMPARES] else None for name, m in metrics.items()},
        "images": len(labels),
    }
    if applies["labels"]:
        scored["classes"] = outputs.variant.shape[1]
        scored["right"] = json_format.MessageToDict(store.put_array(np.stack(outputs.right)))
    return scored


def _check_labels(name: str, data: Data, labels: np.ndarray, count: int) -> None:
    """Raise Failed where a label has no output among the model's `count`."""
    if data.outputs is not None and max(data.outputs) >= count:
        raise Failed(f"{name} scores output {max(data.outputs)}; the model has {count}")
    if data.outputs is None and int(labels.max()) >= count:
        raise Failed(f"{name} has label {int(labels.max())}; the model has {count} outputs")


Handler = Callable[[Execution, Step, Results], dict[str, Any]]
HANDLERS: dict[str, Handler] = {
    "prepare": _prepare,
    "compress": _compress,
    "build": _build,
    "verify": _verify,
    "try": _try,
    "predict": _predict,
    "measure": _measure,
    "profile": _profile,
    "score": _score,
}


def blobs_of(result: Any) -> list[Blob]:
    """Every blob that a step's result refers to."""
    if isinstance(result, dict):
        if "sha256" in result:
            return [json_format.ParseDict(result, Blob())]
        return [blob for value in result.values() for blob in blobs_of(value)]
    if isinstance(result, list):
        return [blob for value in result for blob in blobs_of(value)]
    return []


def _images(result: dict[str, Any]) -> Images:
    return json_format.ParseDict(result, Images())


def _engine(result: dict[str, Any]) -> runtime_pb2.Engine:
    return json_format.ParseDict(result["engine"], runtime_pb2.Engine())


def _outcome(error: PqbenchError) -> str:
    if isinstance(error, Refused):
        return "refused"
    return "unavailable" if isinstance(error, Unavailable) else "failed"
