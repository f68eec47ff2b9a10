"""Predict: an engine's outputs on a whole split, or on as much of it as it takes to see that accuracy is hopeless."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from google.protobuf import json_format

from pqbench.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from pqbench_orchestrator.statistics import is_hopeless
from pqbench_orchestrator.steps.step import Json, Needs, Step, Work, engine_of, images_of
from pqbench_orchestrator.store.ledger import StepResult

LEAST_PART, MOST_PARTS = 128, 20  # images in a part of a prediction that may stop early, and parts


@dataclass(frozen=True, kw_only=True)
class StopEarly:
    """When accuracy is hopeless, in points below the baseline's."""

    dataset: str  # its label
    max_drop: float  # still acceptable
    margin: float  # beyond, at which a variant is hopeless


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Whether it may stop early; the engine and the images are what it needs."""

    KIND: ClassVar[str] = "predict"
    REUSED: ClassVar[bool] = True

    stop_early: StopEarly | None = None

    def identity(self) -> Json:
        """All of it."""
        return asdict(self)

    def run(self, work: Work, step: Step, needs: Needs) -> StepResult:
        """PredictResult. `needs`: build, inputs; baseline where it may stop early.

        The result of a stopped one names the examples that it holds: `indices`, a blob int64 [n].
        """
        request = runtime_pb2.PredictRequest(engine=engine_of(needs["build"]), inputs=images_of(needs["inputs"]))
        if self.stop_early is not None and not needs["baseline"].get("flattened", False):
            return _predict_in_parts(work, step, needs, request, self.stop_early)
        return json_format.MessageToDict(work.call(step, runtime_pb2_grpc.RuntimeServiceStub, "Predict", request))


def _predict_in_parts(
    work: Work, step: Step, needs: Needs, request: runtime_pb2.PredictRequest, limits: StopEarly
) -> StepResult:
    """Predict part by part, each spread over the whole split, and stop where accuracy is hopeless."""
    store = work.store
    labels = np.asarray(store.array(images_of(needs["inputs"]).labels))
    outputs_of = work.datasets[limits.dataset].outputs
    columns = list(outputs_of) if outputs_of is not None else slice(None)
    baseline = store.array_of(needs["baseline"]["outputs"])[:, columns].argmax(1) == labels
    acceptable = float(baseline.mean()) - limits.max_drop / 100
    parts = -(-len(labels) // max(LEAST_PART, -(-len(labels) // MOST_PARTS)))
    outputs, indices, seconds = [], [], 0.0
    for part in range(parts):
        request.first, request.stride = part, parts
        result = work.call(step, runtime_pb2_grpc.RuntimeServiceStub, "Predict", request)
        seconds += result.seconds
        outputs.append(np.asarray(store.array(result.outputs)))
        indices.append(np.arange(part, len(labels), parts))
        so_far = np.concatenate(indices)
        right = np.concatenate(outputs)[:, columns].argmax(1) == labels[so_far]
        if is_hopeless(right, acceptable, limits.margin / 100):
            break
    order = np.argsort(so_far)
    found: dict[str, Any] = {
        "outputs": json_format.MessageToDict(store.put_array(np.concatenate(outputs)[order])),
        "seconds": seconds,
    }
    if len(so_far) < len(labels):
        found["indices"] = json_format.MessageToDict(store.put_array(so_far[order]))
        found["stopped"] = f"hopeless after {len(so_far)} of {len(labels)} images: {100 * right.mean():.1f} % right"
    return found
