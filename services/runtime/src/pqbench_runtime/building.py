"""Builds an engine and reads back the precisions that its layers execute in."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from pqbench.common.v1.common_pb2 import Artifact, Form, Precision
from pqbench.runtime.v1 import runtime_pb2 as pb
from pqbench_runtime.backend import BACKENDS, UNKNOWN, Built, Job, Route, Shape, engine_identity, route_for
from pqbench_runtime.reporter import Reporter
from pqbench_runtime.sparsity import unused_pattern
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import InvalidInput, PrecisionMismatch, Refused
from pqbench_wire.shared.inputs import load_inputs
from pqbench_wire.shared.onnx_walk import external_locations


def build(request: pb.BuildEngineRequest, store: BlobStore, reporter: Reporter) -> pb.BuildEngineResult:
    """Build an engine and read back the precisions that its layers execute in.

    Raises Refused without a route, Failed with the library's reason, and PrecisionMismatch for layers in a precision
    that the route does not allow.
    """
    backend = BACKENDS.load(request.backend)
    options = BACKENDS.configure(request.backend, request.options_json)
    route = route_for(backend, options, request.artifact.precision, request.artifact.form)
    if route is None:
        raise Refused(f"{request.backend} has no route for this precision in this form with these options")
    begin = time.perf_counter()
    with reporter.alive("build") as report:
        job = _job(request, store, report)
        built = backend.build(job, options)
    seconds = time.perf_counter() - begin
    executed = executed_precisions(built)
    check_precision(executed, route, request.backend)
    engine = pb.Engine(
        backend=request.backend,
        options_json=request.options_json,
        blob=store.put(built.data),
        batch_size=request.batch_size,
        precision=request.artifact.precision,
        preprocessing=request.preprocessing,
        built_on=engine_identity(backend, options),
    )
    layers = [pb.Layer(**asdict(layer)) for layer in built.layers]
    return pb.BuildEngineResult(
        engine=engine,
        build_seconds=seconds,
        layers=layers,
        executed=executed,
        settings=built.settings | unused_pattern(job.artifact, job.form, options),
        versions=backend.versions(),
    )


def artifact_path(artifact: Artifact, store: BlobStore) -> Path:
    """The file of an artifact. Raises InvalidInput for an ONNX that refers to other files, which are never read."""
    path = store.path(artifact.blob)
    if artifact.form != Form.FORM_PT2 and (elsewhere := external_locations(path)):
        raise InvalidInput(f"the artifact keeps weights in another file, {elsewhere[0]!r}: it must hold them itself")
    return path


def _job(request: pb.BuildEngineRequest, store: BlobStore, report: Callable[[float], None]) -> Job:
    artifact, calibration = request.artifact, None
    if artifact.HasField("calibration"):
        calibration = load_inputs(store, artifact.calibration, request.preprocessing)[0]
    return Job(
        artifact=artifact_path(artifact, store),
        precision=artifact.precision,
        form=artifact.form,
        shape=Shape(batch=request.batch_size, preprocessing=request.preprocessing),
        caches=store.root.parent
        / "trt_caches"
        / f"build-{request.replicate}",  # each build replicate chooses its tactics anew
        calibration=calibration,
        report=report,
    )


def executed_precisions(built: Built) -> dict[str, int]:
    """How many compute layers run in each precision."""
    counts: dict[str, int] = {}
    for layer in built.layers:
        if layer.compute:
            counts[layer.precision] = counts.get(layer.precision, 0) + 1
    return counts


def check_precision(executed: dict[str, int], route: Route, backend: str) -> None:
    """Raise PrecisionMismatch for an engine that runs in a precision that the route does not allow.

    If the route demands it, at least one compute layer must run in the precision itself. Routes for Q/DQ nodes that a
    vendor tool placed do not: how many layers then run in it is a result, reported with the cell. Layers of unknown
    precision pass.
    """
    names = {Precision.Name(p).removeprefix("PRECISION_") for p in route.executes}
    wanted = Precision.Name(route.precision).removeprefix("PRECISION_").removesuffix("_DYNAMIC")
    found = ", ".join(f"{count} in {name}" for name, count in sorted(executed.items())) or "none found"
    if set(executed) - names - {UNKNOWN}:
        raise PrecisionMismatch(f"{backend} was asked for {wanted}; its compute layers run: {found}")
    if route.demanded and not executed.keys() & {wanted, UNKNOWN}:
        raise PrecisionMismatch(f"{backend} was asked for {wanted} and runs no compute layer in it: {found}")
