"""Predict: an engine's outputs on a split; it may stop early, once accuracy is seen to be hopeless."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from google.protobuf import json_format

from pqbench.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from pqbench_orchestrator.statistics import is_hopeless
from pqbench_orchestrator.steps.step import Json, Needs, Step, Work, engine_of, images_of
from pqbench_orchestrator.store.ledger import StepResult

# A prediction that may stop early is done in parts: the fewest images in a part, and the most parts.
LEAST_PART, MOST_PARTS = 128, 20


@dataclass(frozen=True, kw_only=True)
class StopEarly:
    """When accuracy is hopeless, in points below the baseline's."""

    dataset: str  # its label
    max_drop: float  # points below the baseline's that are still acceptable
    margin: float  # points below what is acceptable: the test's alternative


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Whether the prediction may stop early; the engine and the images come from the steps that it needs."""

    KIND: ClassVar[str] = "predict"
    REUSED: ClassVar[bool] = True

    stop_early: StopEarly | None = None

    def identity(self) -> Json:
        """All fields."""
        return {"stop_early": self.stop_early and asdict(self.stop_early)}

    def run(self, work: Work, step: Step, needs: Needs) -> StepResult:
        """Predict; returns PredictResult as JSON. `needs`: build, inputs; where it may stop early also baseline.

        A result that was stopped early also has `indices`, a blob int64 [n] of the examples that its outputs are of,
        and the reason `stopped`.
        """
        request = runtime_pb2.PredictRequest(engine=engine_of(needs["build"]), inputs=images_of(needs["inputs"]))
        if self.stop_early is not None and not needs["baseline"].get("flattened", False):
            return _predict_in_parts(work, step, needs, request, self.stop_early)
        return json_format.MessageToDict(work.call(step, runtime_pb2_grpc.RuntimeServiceStub, "Predict", request))


def _predict_in_parts(
    work: Work, step: Step, needs: Needs, request: runtime_pb2.PredictRequest, limits: StopEarly
) -> StepResult:
    """Predict part by part, each spread evenly over the split, and stop once accuracy is hopeless."""
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
        found["stopped"] = f"accuracy too low after {len(so_far)} of {len(labels)} images: {100 * right.mean():.1f} %"
    return found
