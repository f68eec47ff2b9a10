"""A step: one unit of work, what it needs, and what it is given to do its work with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from google.protobuf import json_format

from pqbench.common.v1.common_pb2 import Artifact, Blob, Form, Images
from pqbench.compressor.v1.compressor_pb2 import CompressResult
from pqbench.runtime.v1.runtime_pb2 import Engine
from pqbench_orchestrator.dataset import Data
from pqbench_orchestrator.store.ledger import StepResult
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import Failed, from_reason

Needs = Mapping[str, StepResult]  # role -> result of the step that is needed
Json = dict[str, Any]


class Work(Protocol):
    """What a step does its work with."""

    @property
    def store(self) -> BlobStore: ...

    @property
    def datasets(self) -> Mapping[str, Data]:
        """The manifest's datasets by label."""
        ...

    def progress(self, step: Step, stage: str, fraction: float) -> None:
        """Say how far the step is."""
        ...

    def call(self, step: Step, stub: Any, method: str, request: Any, silence: float = 0.0) -> Any:
        """The result of a long call to the step's service: inputs are pushed before, outputs pulled after.

        `silence`: seconds for which it may rightly report no progress, besides the manifest's `stall_seconds`.
        """
        ...


class Spec(Protocol):
    """What one kind of step is asked to do. A frozen dataclass in a file of its own."""

    KIND: ClassVar[str]
    REUSED: ClassVar[bool]  # by other runs of the same data folder; a measurement never is

    def identity(self) -> Json:
        """What decides the result, besides the tools and what the step needs."""
        ...

    def run(self, work: Work, step: Step, needs: Needs) -> StepResult:
        """Do it; returns the result as JSON. Raises the error tree."""
        ...


@dataclass(frozen=True, kw_only=True)
class Step:
    """One unit of work."""

    key: str
    label: str
    place: str  # see planning.places
    spec: Spec
    needs: dict[str, str]  # role -> key of the step whose result it takes
    stage: tuple[int, ...]  # order of execution: place by place

    @property
    def kind(self) -> str:
        """prepare, compress, build and so on."""
        return self.spec.KIND


def key_of(spec: Spec, needs: Mapping[str, str], tools: Mapping[str, str]) -> str:
    """The key of a step: equal keys are one step. `tools`: versions of what does it, and its device."""
    return digest([spec.KIND, spec.identity(), dict(needs), dict(tools)])


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def blobs_of(result: Any) -> list[Blob]:
    """Every blob that a step's result refers to."""
    if isinstance(result, dict):
        if "sha256" in result:
            return [json_format.ParseDict(result, Blob())]
        return [blob for value in result.values() for blob in blobs_of(value)]
    if isinstance(result, list):
        return [blob for value in result for blob in blobs_of(value)]
    return []


def images_of(result: StepResult) -> Images:
    """The images that a step prepared."""
    return json_format.ParseDict(result, Images())


def engine_of(result: StepResult) -> Engine:
    """The engine that a step built."""
    return json_format.ParseDict(result["engine"], Engine())


def artifact_of(step: Step, result: StepResult, form: str) -> Artifact:
    """The variant in a form. Raises the form's failure where it could not be made."""
    variant, number = json_format.ParseDict(result, CompressResult()), Form.Value(form)
    failed = next((one for one in variant.failures if one.form == number), None)
    if failed is not None:
        raise from_reason(failed.reason, failed.message)
    artifact = next((one for one in variant.artifacts if one.form == number), None)
    if artifact is None:
        raise Failed(f"{step.label}: the compressor made no {form}")
    return artifact
