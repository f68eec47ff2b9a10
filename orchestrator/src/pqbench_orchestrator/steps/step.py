"""A step: one unit of work, the steps whose results it needs, and the interface through which it works."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from google.protobuf import json_format

from pqbench.common.v1.common_pb2 import Artifact, Blob, Form, Images
from pqbench.compressor.v1.compressor_pb2 import CompressResult
from pqbench.runtime.v1.runtime_pb2 import Engine
from pqbench_orchestrator.dataset import Data
from pqbench_orchestrator.store.ledger import StepResult
from pqbench_orchestrator.store.run_folder import RunFolder
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import Failed, from_reason

Needs = Mapping[str, StepResult]  # role -> result of the needed step
Json = dict[str, Any]
CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


class Work(Protocol):
    """What `Spec.run` works with: blobs, datasets, and calls to services."""

    @property
    def store(self) -> BlobStore: ...

    @property
    def datasets(self) -> Mapping[str, Data]:
        """The manifest's datasets by label."""
        ...

    def progress(self, step: Step, stage: str, fraction: float) -> None:
        """Report how far the step is: the name of its stage, and a fraction from 0 to 1."""
        ...

    def call(self, step: Step, stub: Any, method: str, request: Any, silence: float = 0.0) -> Any:
        """The result of a long call to the service at the step's place.

        Blobs that the request names are sent to the service before, and those that the result names are fetched after.
        `silence`: seconds without progress that are allowed in addition to the manifest's `stall_seconds`.
        """
        ...


class Spec(Protocol):
    """What a step of one kind has to do: a frozen dataclass, one per file of `steps`."""

    KIND: ClassVar[str]
    REUSED: ClassVar[bool]  # whether other runs of the same data folder reuse the result; never a measurement

    def identity(self) -> Json:
        """What decides the result, besides the tools and the results of the needed steps."""
        ...

    def run(self, work: Work, step: Step, needs: Needs) -> StepResult:
        """Do the work; returns the result as JSON. Raises a PqbenchError."""
        ...


@dataclass(frozen=True, kw_only=True)
class Step:
    """One unit of work."""

    key: str
    label: str
    place: str  # see planning.places
    spec: Spec
    needs: dict[str, str]  # role -> key of the needed step
    stage: tuple[int, ...]  # steps are executed in ascending order of it: place by place

    @property
    def kind(self) -> str:
        """The kind of step: prepare, compress, build and so on."""
        return self.spec.KIND


def key_of(spec: Spec, needs: Mapping[str, str], tools: Mapping[str, str]) -> str:
    """The key of a step; steps with equal keys are one step. `tools`: versions of the tools that do it, and device."""
    return digest([spec.KIND, spec.identity(), dict(needs), dict(tools)])


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(CANONICAL.encode(value).encode()).hexdigest()


def blobs_of(result: Any) -> list[Blob]:
    """Every blob that a step's result, or another value from JSON, refers to.

    Raises TypeError, ValueError or OverflowError for one that is damaged.
    """
    if isinstance(result, dict):
        if "sha256" in result:
            return [Blob(sha256=result["sha256"], size=int(result.get("size", 0)))]
        values: Iterable[Any] = result.values()
    else:
        values = result if isinstance(result, list) else ()
    return [blob for value in values if isinstance(value, dict | list) for blob in blobs_of(value)]


def blobs_of_run(run: RunFolder) -> Iterator[Blob]:
    """All blobs that a run refers to."""
    with run.ledger() as ledger:
        for document in ledger.documents():
            yield from blobs_of(document)


def images_of(result: StepResult) -> Images:
    """The images that a step prepared."""
    return json_format.ParseDict(result, Images())


def engine_of(result: StepResult) -> Engine:
    """The engine that a step built."""
    return json_format.ParseDict(result["engine"], Engine())


def artifact_of(step: Step, result: StepResult, form: str) -> Artifact:
    """The variant's artifact in a form. Raises the error with which its export failed, or Failed if it is missing."""
    variant, number = json_format.ParseDict(result, CompressResult()), Form.Value(form)
    failed = next((one for one in variant.failures if one.form == number), None)
    if failed is not None:
        raise from_reason(failed.reason, failed.message)
    artifact = next((one for one in variant.artifacts if one.form == number), None)
    if artifact is None:
        raise Failed(f"{step.label}: the compressor made no {form}")
    return artifact
